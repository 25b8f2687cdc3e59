#!/usr/bin/env python
"""Detect or segment in images: python tools/image_demo.py IMAGE_OR_FOLDER CONFIG CHECKPOINT

Writes the images with predictions to OUT_DIR/vis, and the predictions to OUT_DIR/preds: for a
detector one JSON file per image; for a segmentor a label map (PNG of class indices) and a JSON file
with the share of each class. Unreadable images are named and skipped; the exit status is then 1.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from tqdm import tqdm

from mmatm.cli.arguments import add_trust_flag, read_config

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', type=Path, help='image, or a folder of images')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out-dir', type=Path, default=Path('outputs'))
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score that is drawn')
    parser.add_argument('--device', help='e.g. cpu or cuda:0 (default: the GPU if there is one)')
    add_trust_flag(parser)
    args = parser.parse_args()
    for path in (args.input, args.checkpoint):
        if '://' not in str(path) and not Path(path).exists():
            sys.exit(f'{path} does not exist')
    images = [args.input]
    if args.input.is_dir():
        images = sorted(p for p in args.input.iterdir() if p.suffix.lower() in SUFFIXES)
        if not images:
            sys.exit(f'{args.input} holds no images ({" ".join(SUFFIXES)})')

    predict = make_predictor(args)
    unreadable = []
    for path in tqdm(images, unit='image', disable=None):
        image = read(path)
        if image is None:
            unreadable.append(path)
        else:
            predict(path, image)
    print(f'{len(images) - len(unreadable)} images: {args.out_dir.resolve()}')
    for path in unreadable:
        print(f'cannot be read as an image, skipped: {path}', file=sys.stderr)
    if unreadable:
        sys.exit(1)


def read(path: Path) -> np.ndarray | None:
    """Load an image as for training, ``[H, W, 3]`` BGR uint8; None if that fails."""
    try:
        return mmcv.imread(str(path))
    except (OSError, ValueError, cv2.error):
        return None


def make_predictor(args: argparse.Namespace) -> Any:
    """Return a function that writes the predictions for an image, given its path and pixels."""
    config = read_config(args.config)
    if config.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer

        detector = DetInferencer(config, args.checkpoint, args.device, show_progress=False)

        def detect(path: Path, image: np.ndarray) -> None:
            result = detector(
                image, return_vis=True, pred_score_thr=args.score_thr, no_save_pred=True
            )
            prediction = result['predictions'][0]
            names = detector.visualizer.dataset_meta['classes']
            prediction['names'] = [names[label] for label in prediction['labels']]
            write(args.out_dir, path, result['visualization'][0], prediction)

        return detect

    from mmseg.apis import MMSegInferencer

    segmentor = MMSegInferencer(config, args.checkpoint, device=args.device)
    segmentor.show_progress = False

    def segment(path: Path, image: np.ndarray) -> None:
        result = segmentor(image, return_vis=True)
        labels = result['predictions'].astype(np.uint8)
        names = segmentor.visualizer.dataset_meta['classes']
        found, counts = np.unique(labels, return_counts=True)
        shares = {names[i]: round(n / labels.size, 6) for i, n in zip(found, counts, strict=True)}
        write(args.out_dir, path, result['visualization'], dict(shares=shares))
        mmcv.imwrite(labels, str(args.out_dir / 'preds' / f'{path.stem}.png'))

    return segment


def write(out_dir: Path, path: Path, drawn: np.ndarray, prediction: dict) -> None:
    """Write an RGB image with predictions, and a JSON file."""
    mmcv.imwrite(drawn[..., ::-1], str(out_dir / 'vis' / path.name))
    target = out_dir / 'preds' / f'{path.stem}.json'
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(dict(image=str(path), **prediction)))


if __name__ == '__main__':
    main()
