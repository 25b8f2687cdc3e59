#!/usr/bin/env python
"""Detect, segment or classify in images and videos: python tools/predict.py INPUT CONFIG CHECKPOINT

INPUT is an image, a video, a folder of both, or an http(s):// or file:// URL of one file. Images
that cannot be read are named and skipped; the exit status is then 1. docs/predicting.md tells what
OUT_DIR holds afterwards.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from mmatm.checkpoints import CheckpointError
from mmatm.checkpoints.loading import EMA_PREFIX
from mmatm.cli.arguments import (
    add_config_options,
    add_trust_flag,
    check_device,
    explained_errors,
    read_config,
    require,
)
from mmatm.cli.numbers import at_least, fraction
from mmatm.data import DataError
from mmatm.inference import Predictor, Writer
from mmatm.inference.predictor import MIN_TILE
from mmatm.inference.writing import FOLDERS, check_folder
from mmatm.packaged import model_names


@explained_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', help='image, video, folder or URL')
    parser.add_argument('config', help='config file, or the name of a packaged config')
    parser.add_argument('checkpoint', help='checkpoint file; ema:FILE for the EMA weights in it')
    parser.add_argument('--out-dir', type=Path, default=Path('outputs'))
    parser.add_argument('--recursive', action='store_true', help='look into folders of the folder')
    parser.add_argument(
        '--batch-size',
        type=at_least(1),
        help="images per call (default: that of the config's test loader)",
    )
    parser.add_argument(
        '--tile',
        type=at_least(MIN_TILE),
        help='cut larger images into tiles of this side, in pixels',
    )
    parser.add_argument(
        '--overlap', type=float, help='share of a tile that its neighbour covers (default: 0.25)'
    )
    parser.add_argument(
        '--annotations', help='COCO annotation file that tells the ids of images and categories'
    )
    parser.add_argument(
        '--score-thr', type=fraction, default=0.3, help='lowest score that is drawn'
    )
    parser.add_argument('--no-vis', action='store_true', help='draw nothing')
    parser.add_argument('--arrays', action='store_true', help='also write one .npz file per image')
    parser.add_argument('--device', help='e.g. cpu or cuda:0 (default: the GPU if there is one)')
    parser.add_argument('--force', action='store_true', help='overwrite earlier predictions')
    add_config_options(parser)
    add_trust_flag(parser)
    args = parser.parse_args()
    if args.overlap is not None and args.tile is None:
        parser.error('--overlap needs --tile')
    try:
        skipped = predict(args)
    except (OSError, ValueError, CheckpointError, DataError) as error:
        sys.exit(str(error))
    for problem in skipped:
        print(f'cannot be read, skipped: {problem}', file=sys.stderr)
    if skipped:
        sys.exit(1)


def predict(args: argparse.Namespace) -> list[str]:
    """Predict for every image, write the results, and return why images were skipped."""
    for file in (args.input, args.checkpoint.removeprefix(EMA_PREFIX)):  # before seconds of loading
        if '://' not in file and not Path(file).exists():
            order = '; the order is INPUT CONFIG CHECKPOINT' if file in model_names() else ''
            raise FileNotFoundError(f'{file} does not exist{order}')
    check_folder(args.out_dir, args.force)
    source = Path(args.input).resolve()
    if {source, source.parent} & {(args.out_dir / name).resolve() for name in FOLDERS}:
        raise ValueError(f'{args.input} is or holds results, which would be overwritten')
    if args.device is not None:
        check_device(args.device)
    cfg = read_config(args.config, args.cfg_options)
    require(cfg, 'model', 'default_scope')
    predictor = Predictor(cfg, args.checkpoint, args.device)
    images = predictor.open(args.input, args.recursive)
    overlap = 0.25 if args.overlap is None else args.overlap
    predictions = predictor.predict(images, args.batch_size, args.tile, overlap)
    writer = Writer(
        args.out_dir, predictor, args.score_thr, not args.no_vis, args.arrays, args.annotations,
        args.force,
    )  # fmt: skip
    with writer, tqdm(predictions, total=images.total, unit='image', disable=None) as bar:
        for prediction in bar:
            writer.write(prediction)
    print(f'{writer.count} images: {args.out_dir.resolve()}')
    return list(predictor.skipped.values())


if __name__ == '__main__':
    main()
