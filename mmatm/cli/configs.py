"""List the packaged configs: mmatm configs [PATTERN]"""

import argparse
from fnmatch import fnmatch

from ..packaged import model_names


def main() -> None:
    parser = argparse.ArgumentParser(description='List the packaged configs')
    parser.add_argument('pattern', nargs='?', default='*', help="e.g. 'mask_rcnn*'")
    pattern = parser.parse_args().pattern
    found = {name: path for name, path in model_names().items() if fnmatch(name, pattern)}
    if not found:
        parser.error(f'no packaged config matches {pattern!r}')
    width = max(map(len, found)) + 2
    for name, path in found.items():
        print(f'{name:{width}}{path}')
