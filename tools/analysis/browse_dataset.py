#!/usr/bin/env python
"""Write the augmented training pictures of a config with their annotations drawn in:
python tools/analysis/browse_dataset.py CONFIG --output-dir FOLDER --not-show
"""

from installed import run_tool

if __name__ == '__main__':
    run_tool('browse_dataset.py')
