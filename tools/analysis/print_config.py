#!/usr/bin/env python
"""Print a config with everything it inherits: python tools/analysis/print_config.py CONFIG"""

from installed import run_tool

if __name__ == '__main__':
    run_tool('misc/print_config.py')
