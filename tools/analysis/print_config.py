#!/usr/bin/env python
"""Print a config with all that it inherits: python tools/analysis/print_config.py CONFIG"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as in tools/train.py')
    args = parser.parse_args()
    if not Path(args.config).is_file():
        sys.exit(f'config {args.config} does not exist')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    print(cfg.pretty_text)


if __name__ == '__main__':
    main()
