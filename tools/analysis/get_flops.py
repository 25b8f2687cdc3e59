#!/usr/bin/env python
"""Count parameters and FLOPs of a config: python tools/analysis/get_flops.py CONFIG --shape H W

FLOPs are multiply-adds for one image. The products of the token mixer are counted as in the paper
(four C x C products per token). The last line counts the products that are computed here.
"""

import argparse
import json
import sys
from pathlib import Path

from mmatm.cli.arguments import add_config_options, explained_errors, read_config, require
from mmatm.cli.numbers import at_least
from mmatm.measuring.flops import SHAPES, complexity


@explained_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file, or the name of a packaged config')
    parser.add_argument(
        '--shape',
        type=at_least(32),
        nargs=2,
        metavar=('H', 'W'),
        help='image size (default: 800 1280 for detection, 512 512 for segmentation, 224 224 for '
        'classification)',
    )
    add_config_options(parser)
    parser.add_argument('--json', action='store_true', help='print exact numbers as JSON')
    args = parser.parse_args()
    cfg = read_config(args.config, args.cfg_options)
    require(cfg, 'model', 'default_scope')
    shape = args.shape or SHAPES[cfg.default_scope]
    try:
        result = complexity(cfg, *shape)
    except RuntimeError as error:  # such as fewer tokens than DINO has queries
        sys.exit(f'{args.config} cannot be run at {shape[0]} x {shape[1]}: {error}')
    if args.json:
        print(json.dumps(result))
        return
    for name, (label, unit, scale) in {
        'parameters': ('parameters', 'M', 1e6),
        'flops': ('FLOPs, products only', 'G', 1e9),
        'flops_fvcore': ('  with normalization and interpolation, as fvcore counts', 'G', 1e9),
        'flops_computed': ('  products computed here, after folding', 'G', 1e9),
    }.items():
        value = result[name] / scale
        print(f'{label:58}{value:8.{1 if value >= 1 else 4}f} {unit}')
    print(f'for one image of {shape[0]} x {shape[1]}: {Path(cfg.filename).stem}')


if __name__ == '__main__':
    main()
