#!/usr/bin/env python
"""Draw predictions next to the ground truth, many pictures on one sheet.

python tools/contact_sheet.py CONFIG PREDICTIONS.pkl --out SHEET.png, with the predictions that
tools/test.py --out wrote for the test set of CONFIG.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.fileio import load
from mmengine.registry import VISUALIZERS, init_default_scope
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file of the detector')
    parser.add_argument('predictions', help='.pkl file written by tools/test.py --out')
    parser.add_argument('--out', required=True, help='picture to write')
    parser.add_argument('--rows', type=int, default=6)
    parser.add_argument('--columns', type=int, default=3)
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score that is drawn')
    parser.add_argument('--height', type=int, default=320, help='height of a picture, in pixels')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as in tools/test.py')
    args = parser.parse_args()
    if min(args.rows, args.columns, args.height) < 1:
        parser.error('--rows, --columns and --height must be at least 1')

    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    init_default_scope(cfg.default_scope)
    predictions = load(args.predictions)
    count = args.rows * args.columns
    if len(predictions) < count:
        sys.exit(f'{args.predictions} holds {len(predictions)} pictures, fewer than {count}')
    coco = COCO(cfg.test_evaluator.ann_file)
    visualizer = VISUALIZERS.build(cfg.visualizer)
    visualizer.dataset_meta = {'classes': [c['name'] for c in coco.loadCats(coco.getCatIds())]}
    chosen = np.linspace(0, len(predictions) - 1, count).round().astype(int)
    tiles = [draw(predictions[i], coco, visualizer, args.height, args.score_thr) for i in chosen]
    write_sheet(tiles, args.columns, args.out)
    print(f'left: ground truth, right: prediction: {Path(args.out).resolve()}')


def draw(
    prediction: dict[str, Any], coco: COCO, visualizer: Any, height: int, score_thr: float
) -> np.ndarray:
    """Ground truth and prediction of one picture side by side, ``[height, W, 3]`` RGB."""
    from mmdet.structures import DetDataSample

    image = mmcv.imread(prediction['img_path'], channel_order='rgb')
    scale = height / image.shape[0]
    size = (round(image.shape[1] * scale), height)
    image = mmcv.imresize(image, size)

    labels = {category: label for label, category in enumerate(coco.getCatIds())}
    truth = coco.loadAnns(coco.getAnnIds(imgIds=prediction['img_id']))
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (a['bbox'] for a in truth)]
    sample = DetDataSample()
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4) * scale,
        labels=torch.tensor([labels[a['category_id']] for a in truth], dtype=torch.long),
        masks=_resize([coco.annToMask(a) for a in truth], size),
    )
    found = prediction['pred_instances']
    sample.pred_instances = InstanceData(
        bboxes=found['bboxes'] * scale,
        labels=found['labels'],
        scores=found['scores'],
        masks=_resize([coco_mask.decode(m) for m in found['masks']], size),
    )
    visualizer.add_datasample('', image, sample, pred_score_thr=score_thr)
    return visualizer.get_image()


def _resize(masks: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Masks of one picture, enlarged to ``size`` (width, height): ``[N, H, W]`` bool."""
    resized = [mmcv.imresize(m, size, interpolation='nearest') for m in masks]
    return np.array(resized, dtype=bool).reshape(-1, size[1], size[0])


def write_sheet(tiles: list[np.ndarray], columns: int, out: str) -> None:
    """Write RGB ``tiles`` of one height as a grid, padded with white to the widest."""
    width, gap = max(tile.shape[1] for tile in tiles), 8
    padded = [
        np.pad(
            tile,
            ((gap, gap), (gap, gap + width - tile.shape[1]), (0, 0)),
            constant_values=255,
        )
        for tile in tiles
    ]
    rows = [np.concatenate(padded[i : i + columns], 1) for i in range(0, len(padded), columns)]
    mmcv.imwrite(np.concatenate(rows)[..., ::-1], out)


if __name__ == '__main__':
    main()
