#!/usr/bin/env python
"""Export a trained model to ONNX: python tools/export.py CONFIG CHECKPOINT --out MODEL.onnx

Classifiers, UperNet, Semantic FPN, RetinaNet, Faster, Mask and Cascade R-CNN, for images of any
size. The file is then run by onnxruntime beside torch, and not written where they do not agree.
docs/deployment.md tells what is in the file.
"""

import argparse
import os
import sys
import tempfile
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mmatm.cli.arguments import (
    add_config_options,
    add_trust_flag,
    check_checkpoint,
    check_data,
    explained_errors,
    make_runner,
    read_config,
    require,
)
from mmatm.export import ExportError, weights_file

NEEDED = ('onnx', 'onnxruntime')


@explained_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or the name of a packaged config')
    parser.add_argument('checkpoint', help='checkpoint file; ema:FILE for the EMA weights in it')
    parser.add_argument('--out', type=Path, required=True, help='file to write, .onnx')
    parser.add_argument('--force', action='store_true', help='overwrite the file of --out')
    parser.add_argument('--opset', type=int, default=17, help='17 to 20 (default: 17)')
    parser.add_argument('--float-input', action='store_true', help='float images instead of uint8')
    parser.add_argument(
        '--external-data', action='store_true', help='weights in a second file, OUT.data'
    )
    parser.add_argument('--fp16', action='store_true', help='not supported; says why')
    parser.add_argument('--no-verify', action='store_true', help='do not run the file')
    parser.add_argument(
        '--verify-data', action='store_true', help='also evaluate the file on the test set'
    )
    add_config_options(parser)
    add_trust_flag(parser)
    args = parser.parse_args()
    check(args)
    cfg = read_config(args.config, args.cfg_options)
    require(cfg, 'model')

    from mmatm.checkpoints import CheckpointError
    from mmatm.export.graph import describe, export_onnx, preparation, test_size
    from mmatm.export.models import deployed
    from mmatm.export.setup import build, class_names

    # Older files stay until the new ones are known to be right.
    with tempfile.TemporaryDirectory(prefix=f'.{args.out.name}-', dir=args.out.parent) as folder:
        made = Path(folder, args.out.name)
        try:
            model, meta = build(cfg, args.checkpoint)
            whole = deployed(model)
            size = test_size(preparation(cfg))
            texts = describe(cfg, whole, **class_names(cfg, whole, meta))
            export_onnx(whole, made, texts, size, args.opset, args.float_input, args.external_data)
        except (ExportError, CheckpointError) as error:
            sys.exit(f'{args.config}: {error}')
        except OSError as error:
            sys.exit(f'{args.out} cannot be written: {error}')
        try:
            if not args.no_verify:
                verify(made, whole, size)
            if args.verify_data:
                verify_data(made, whole, cfg, args.checkpoint)
        except ExportError as error:
            sys.exit(
                f'{args.out} is not written, because onnxruntime does not agree with torch: {error}'
            )
        if weights_file(made).is_file():
            weights_file(made).replace(weights_file(args.out))
        else:
            weights_file(args.out).unlink(missing_ok=True)  # of the file that is replaced
        made.replace(args.out)
    print(f'{args.out}: {whole.kind}, opset {args.opset}, {megabytes(args.out):.0f} MB')


def check(args: argparse.Namespace) -> None:
    """Exit with one sentence where an argument cannot be used, before anything is built."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(f'{" and ".join(missing)} is missing: run "pip install \'mmatm[export]\'"')
    from mmatm.export.graph import OPSETS

    if args.opset not in OPSETS:
        sys.exit(f'--opset must be {OPSETS.start} to {OPSETS[-1]}, but is {args.opset}')
    if args.fp16:
        sys.exit(
            '--fp16 is not supported: sampling positions in maps of more than a few hundred tokens '
            'need float32; export without it, and let the runtime lower the precision of products'
        )
    if args.out.suffix != '.onnx':
        sys.exit(f'--out must end in .onnx, but is {args.out}')
    folder = args.out.parent
    if not folder.is_dir():
        sys.exit(f'the folder of --out does not exist: {folder}')
    if args.out.is_dir() or not os.access(folder, os.W_OK):
        sys.exit(f'--out cannot be written: {args.out}')
    if (found := parts(args.out)) and not args.force:
        sys.exit(f'{found[0]} exists: pass --force to overwrite it')
    check_checkpoint(args.checkpoint)


def parts(out: Path) -> list[Path]:
    return [file for file in (out, weights_file(out)) if file.is_file()]


def megabytes(out: Path) -> float:
    return sum(file.stat().st_size for file in parts(out)) / 1e6


def verify(out: Path, model: Any, size: tuple[int, int]) -> None:
    """Compare onnxruntime's outputs with torch's on images of three sizes."""
    from mmatm.export.verify import compare, exceeded, test_images

    print('greatest differences between onnxruntime and torch (boxes: 1 - IoU):')
    failed = []
    for name, values in compare(out, model, list(test_images(*size))):
        print(f'  {name}: ' + ', '.join(f'{key} {value:.2g}' for key, value in values.items()))
        failed += [f'{name}: {reason}' for reason in exceeded(model, values)]
    if failed:
        raise ExportError('; '.join(failed))


def verify_data(out: Path, model: Any, cfg: Any, checkpoint: str) -> None:
    """Compare the metrics of onnxruntime and torch on the config's test set."""
    from mmatm.export.verify import METRIC_POINTS, Session, test_step

    check_data(cfg, 'test_dataloader', classes=False)
    cfg.load_from, cfg.launcher = checkpoint, 'none'
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = make_runner(cfg)
        expected = runner.test()
        with patch.object(runner.model, 'test_step', test_step(Session(out), model)):
            found = runner.test()
    print('metrics on the test set:')
    failed = [] if expected else ['there are no metrics']
    for name, value in expected.items():
        if not isinstance(value, Real):
            continue
        # mmdet's are shares, the others' per cent.
        points = abs(found[name] - value) * (100 if cfg.default_scope == 'mmdet' else 1)
        print(f'  {name}: onnxruntime {found[name]:.4f}, torch {value:.4f}')
        if not points <= METRIC_POINTS and 'time' not in name:
            failed.append(f'{name} differs by {points:.2f} points')
    if failed:
        raise ExportError('; '.join(failed))


if __name__ == '__main__':
    main()
