#!/usr/bin/env python
"""Print a config with everything that it inherits: python tools/analysis/print_config.py CONFIG"""

import argparse

from mmatm.cli.arguments import add_config_options, read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or the name of a packaged config')
    add_config_options(parser)
    args = parser.parse_args()
    print(read_config(args.config, args.cfg_options).pretty_text)


if __name__ == '__main__':
    main()
