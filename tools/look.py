#!/usr/bin/env python
"""Show where each token looks: python tools/look.py IMAGE CONFIG [CHECKPOINT] --out look.html

Writes one HTML page, with everything in it, about one image: what each token samples in each block,
how the gate weighs it, and what the model found. CONFIG is a config with an ATMNet backbone, or a
timm model such as atmnet_t. Without a checkpoint the weights are random. --figure draws a figure
for a paper instead, or as well. docs/look.md explains the page.
"""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmatm.cli.arguments import (
    add_config_options,
    add_trust_flag,
    check_device,
    explained_errors,
    read_config,
    require,
)
from mmatm.cli.numbers import fraction

FIGURES = ('.png', '.svg', '.pdf')


@explained_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('image', type=Path, help='image; or a .json file written with --out')
    parser.add_argument(
        'config', nargs='?', help='config file, name of a packaged config, or name of a timm model'
    )
    parser.add_argument(
        'checkpoint', nargs='?', default='random',
        help='checkpoint file; ema:FILE for the EMA weights in it (default: random weights)',
    )  # fmt: skip
    parser.add_argument(
        '--out', type=Path, help='page to write, or its data alone, .json (default: look.html)'
    )
    parser.add_argument(
        '--compare', metavar='CHECKPOINT', help='a second checkpoint, or "random", beside the first'
    )
    parser.add_argument('--figure', type=Path, help='figure to write: .png, .svg or .pdf')
    parser.add_argument(
        '--token', nargs=2, type=float, action='append', metavar=('X', 'Y'),
        help='a token of the figure, as shares of width and height, e.g. 0.5 0.4; may be repeated',
    )  # fmt: skip
    parser.add_argument('--cam', action='store_true', help='add class activation maps')
    parser.add_argument(
        '--max-size', type=int, help='longest side, in pixels, to which the image is scaled'
    )
    parser.add_argument(
        '--limit', type=float, default=10, help='size of the page, in MB at most (default: 10)'
    )
    parser.add_argument(
        '--score-thr', type=fraction, default=0.3, help='lowest score that is shown'
    )
    parser.add_argument('--device', default='cpu', help='e.g. cuda:0 (default: cpu)')
    parser.add_argument('--force', action='store_true', help='overwrite files')
    add_config_options(parser)
    add_trust_flag(parser)
    args = parser.parse_args()
    if args.out is None and args.figure is None:
        args.out = Path('look.html')
    check(args)

    from mmatm.checkpoints import CheckpointError
    from mmatm.look.capture import LookError
    from mmatm.look.page import render

    try:
        if args.config is None:
            write(args.out, render(read_data(args.image)).encode())
            return
        looks, title = capture(args)
        if args.out:
            write_page(args, looks, title)
        if args.figure:
            from mmatm.look.figure import draw

            draw(looks, args.token).savefig(args.figure, dpi=200)
            print(f'{args.figure}: {len(looks)} checkpoint{"s" * (len(looks) > 1)}')
    except (LookError, CheckpointError, FileNotFoundError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f'cannot be written: {error}')


def check(args: argparse.Namespace) -> None:
    """Exit with one sentence where an argument cannot be used, before anything is built."""
    files = [p for p in (args.image, args.checkpoint, args.compare) if p not in (None, 'random')]
    for path in files:
        path = Path(str(path).removeprefix('ema:'))
        if '://' not in str(path) and not path.is_file():
            sys.exit(f'{path} is a folder' if path.is_dir() else f'{path} does not exist')
    if args.config is None and (args.image.suffix != '.json' or not args.out or args.figure):
        sys.exit('CONFIG is missing: only a .json file, written with --out, is shown without one')
    if args.config is None and args.out.suffix.lower() != '.html':
        sys.exit(f'the page of {args.image} must end in .html, but is {args.out}')
    for path, kinds in ((args.out, ('.html', '.json')), (args.figure, FIGURES)):
        if path is None:
            continue
        if path.suffix.lower() not in kinds:
            sys.exit(f'the name of {path} must end in {" or ".join(kinds)}')
        if path.exists() and not args.force:
            sys.exit(f'{path} exists: pass --force to overwrite it')
        if not path.parent.is_dir():
            sys.exit(f'{path} cannot be written: there is no folder {path.parent}')
    if args.max_size is not None and args.max_size < 32:
        sys.exit(f'--max-size must be at least 32, but is {args.max_size}')
    for x, y in args.token or []:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            sys.exit(f'--token must be two numbers from 0 to 1, but is {x:g} {y:g}')
    if not args.limit > 0:
        sys.exit(f'--limit must be above 0, but is {args.limit:g}')
    try:
        check_device(args.device)
    except ValueError as error:
        sys.exit(str(error))
    if args.cam and find_spec('pytorch_grad_cam') is None:
        sys.exit('--cam needs grad-cam, which is not installed: run "pip install \'mmatm[cam]\'"')
    if args.figure and find_spec('matplotlib') is None:
        sys.exit('--figure needs matplotlib, which is not installed: run "pip install matplotlib"')


def read_data(file: Path) -> Any:
    """What ``--out FILE.json`` wrote; exits with one sentence if that is not in the file."""
    try:
        content = json.loads(file.read_text())
        if 'models' in content:
            return content
    except (ValueError, TypeError):
        pass
    sys.exit(f'{file} holds no data of a page, which --out FILE.json writes')


def capture(args: argparse.Namespace) -> tuple[list[Any], str]:
    """Run the model with each checkpoint, one after the other; the looks and the model's name."""
    from mmatm.look.running import MMModel, TimmModel, look

    make, title = chosen_model(args)
    looks = []
    for checkpoint in filter(None, (args.checkpoint, args.compare)):
        model = (MMModel if make is not None else TimmModel)(
            make or args.config, checkpoint, args.device, args.max_size
        )
        name = 'random weights' if checkpoint == 'random' else Path(checkpoint).name
        seen, batch = look(model, args.image, name)
        found = seen.prediction
        if found.kind == 'instances':
            found.items = [item for item in found.items if item['score'] >= args.score_thr]
        if args.cam:
            from mmatm.look.cam import activation_maps

            seen.cams = activation_maps(model, batch, seen)
        looks.append(seen)
    if len({seen.name for seen in looks}) < len(looks):  # of two runs
        for seen, path in zip(looks, (args.checkpoint, args.compare), strict=True):
            seen.name = '/'.join(Path(path).parts[-2:])
    return looks, title


def chosen_model(args: argparse.Namespace) -> tuple[Any, str]:
    """The config, or None for a timm model; and its name."""
    import timm

    from mmatm.packaged import model_names

    name = args.config
    if timm.is_model(name) and name not in model_names() and not Path(name).is_file():
        return None, name
    cfg = read_config(name, args.cfg_options)
    require(cfg, 'model', 'test_dataloader')
    return cfg, Path(name).stem


def write_page(args: argparse.Namespace, looks: list[Any], title: str) -> None:
    """Write the page, or its data, and say how exact it is."""
    from mmatm.look.page import payload, render

    content = payload(looks, title, args.image.name, int(args.limit * 1e6))
    text = json.dumps(content) if args.out.suffix == '.json' else render(content)
    write(args.out, text.encode())
    print(content['rounding'])


def write(path: Path, content: bytes) -> None:
    """Write a file whole, and say how large it is."""
    from mmatm.utils.files import write_atomically

    write_atomically(path, content)
    print(f'{path}: {len(content) / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
