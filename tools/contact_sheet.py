#!/usr/bin/env python
"""Draw predictions next to the ground truth, many pictures on one sheet.

python tools/contact_sheet.py CONFIG PREDICTIONS --out SHEET.png, with what tools/test.py --out
wrote for the test set of CONFIG: a .pkl file for a detector, a folder for a segmentor.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.fileio import load
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file of the model')
    parser.add_argument('predictions', help='what tools/test.py --out wrote')
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
    if cfg.default_scope == 'mmdet':
        total, tile = detections(cfg, args.predictions, args.height, args.score_thr)
        order = 'left: ground truth, right: prediction'
    else:
        total, tile = segmentations(cfg, args.predictions, args.height)
        order = 'left: picture, middle: ground truth, right: prediction'
    count = args.rows * args.columns
    if total < count:
        sys.exit(f'{args.predictions} holds {total} pictures, fewer than {count}')
    chosen = np.linspace(0, total - 1, count).round().astype(int)
    write_sheet([tile(i) for i in chosen], args.columns, args.out)
    print(f'{order}: {Path(args.out).resolve()}')


Tile = Callable[[int], np.ndarray]  # number of a picture to a row of pictures, [height, W, 3] RGB


def segmentations(cfg: Config, folder: str, height: int) -> tuple[int, Tile]:
    """Number of pictures in the test set, and a function that draws one."""
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    # An outline between two classes is not labelled; like all that is ignored it is left white.
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(dataset.metainfo['classes'])] = dataset.metainfo['palette']

    def tile(index: int) -> np.ndarray:
        info = dataset.get_data_info(int(index))
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        truth = mmcv.imread(info['seg_map_path'], 'unchanged')
        found = mmcv.imread(str(Path(folder, Path(info['img_path']).stem + '.png')), 'unchanged')
        if info['reduce_zero_label']:  # 0 becomes 255, which is ignored
            truth, found = truth - 1, found - 1
        size = (round(image.shape[1] * height / image.shape[0]), height)
        pictures = [image, palette[truth], palette[found]]
        modes = ['bilinear', 'nearest', 'nearest']
        return np.concatenate(
            [mmcv.imresize(p, size, interpolation=m) for p, m in zip(pictures, modes, strict=True)],
            axis=1,
        )

    return len(dataset), tile


def detections(cfg: Config, file: str, height: int, score_thr: float) -> tuple[int, Tile]:
    """Number of pictures in a file of predictions, and a function that draws one."""
    predictions = load(file)
    coco = COCO(cfg.test_evaluator.ann_file)
    visualizer = VISUALIZERS.build(cfg.visualizer)
    visualizer.dataset_meta = {'classes': [c['name'] for c in coco.loadCats(coco.getCatIds())]}
    return len(predictions), lambda i: draw(predictions[i], coco, visualizer, height, score_thr)


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
        bboxes=found['bboxes'] * scale, labels=found['labels'], scores=found['scores']
    )
    if 'masks' in found:
        decoded = [coco_mask.decode(m) for m in found['masks']]
        sample.pred_instances.masks = _resize(decoded, size)
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
