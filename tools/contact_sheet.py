#!/usr/bin/env python
"""Draw predictions next to the ground truth, many images on one sheet.

python tools/contact_sheet.py CONFIG PREDICTIONS --out SHEET.png, with what tools/test.py --out
wrote for the test set of CONFIG: a .pkl file for a detector, a folder for a segmentor. Each class
has one colour for masks, boxes and labels: that of the dataset's palette.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from mmengine.fileio import load
from mmengine.registry import DATASETS, init_default_scope
from pycocotools import mask as coco_mask

from mmatm.cli.arguments import add_config_options, read_config, require
from mmatm.cli.figures import save_figure
from mmatm.cli.numbers import at_least, fraction

DPI = 100
POINT = 72 / DPI  # a pixel, in the unit of matplotlib's fonts and lines
GAP = 16  # pixels between tiles; half as many within one
LINE = 32  # height of a line of the legend, in pixels
LUMA = np.array([0.299, 0.587, 0.114])


class Item(NamedTuple):
    """What is drawn of one object, or of one class in a label map."""

    label: int
    mask: np.ndarray | None = None  # [H, W]
    box: np.ndarray | None = None  # x1, y1, x2, y2
    score: float | None = None


Tile = dict[str, tuple[np.ndarray, list[Item]]]  # title to RGB image and what is drawn on it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file, or the name of a packaged config')
    parser.add_argument('predictions', help='what tools/test.py --out wrote')
    parser.add_argument('--out', required=True, help='image to write')
    parser.add_argument('--rows', type=at_least(1), default=4)
    parser.add_argument('--columns', type=at_least(1), default=2)
    parser.add_argument(
        '--score-thr', type=fraction, default=0.3, help='lowest score that is drawn'
    )
    parser.add_argument(
        '--height', type=at_least(1), default=256, help='height of an image, in pixels'
    )
    add_config_options(parser)
    args = parser.parse_args()

    cfg = read_config(args.config, args.cfg_options)
    scope = cfg.get('default_scope')
    if scope not in ('mmdet', 'mmseg'):
        sys.exit(f'config {args.config} must be that of a detector or a segmentor')
    require(cfg, 'test_dataloader')
    what, exists = ('.pkl file', Path.is_file) if scope == 'mmdet' else ('folder', Path.is_dir)
    if not exists(Path(args.predictions)):
        sys.exit(f'{args.predictions} must be the {what} that "mmatm test --out" wrote')
    init_default_scope(scope)
    try:
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        if scope == 'mmdet':
            total, read = detections(dataset, args.predictions, args.score_thr)
        else:
            total, read = segmentations(dataset, args.predictions)
        count = args.rows * args.columns
        if total < count:
            sys.exit(f'{args.predictions} holds {total} images, fewer than {count}')
        tiles = [read(i) for i in np.linspace(0, total - 1, count).round().astype(int)]
    except FileNotFoundError as error:
        sys.exit(f'{error.filename} does not exist')
    sheet = draw_sheet(tiles, dataset.metainfo, args.columns, args.height)
    save_figure(sheet, args.out)
    print(f'{", ".join(tiles[0])}, from left to right: {Path(args.out).resolve()}')


def detections(dataset: Any, file: str, score_thr: float) -> tuple[int, Callable[[int], Tile]]:
    """Number of images in a file of predictions, and a function that reads one."""
    infos = map(dataset.get_data_info, range(len(dataset)))
    truths = {info['img_id']: info['instances'] for info in infos}
    try:
        predictions = load(file, 'pkl')
        images = [(p['img_path'], p['pred_instances'], truths[p['img_id']]) for p in predictions]
    except Exception:  # unpickling raises many types
        sys.exit(f'{file} does not hold what "mmatm test --out" wrote for this test set')

    def read(index: int) -> Tile:
        path, found, truth = images[index]
        image = mmcv.imread(path, channel_order='rgb')
        truth = [
            Item(t['bbox_label'], decode(t.get('mask'), *image.shape[:2]), np.array(t['bbox']))
            for t in truth
        ]
        masks = found.get('masks') or [None] * len(found['labels'])
        rows = zip(found['labels'], masks, found['bboxes'], found['scores'], strict=True)
        found = [
            Item(int(label), decode(mask, *image.shape[:2]), box.numpy(), float(score))
            for label, mask, box, score in rows
            if score >= score_thr
        ]
        title = f'prediction (score ≥ {score_thr:g})'
        return {'ground truth': (image, truth), title: (image, found)}

    return len(images), read


def decode(mask: Any, height: int, width: int) -> np.ndarray | None:
    """A mask in one of COCO's formats, as ``[height, width]``."""
    if mask is None:
        return None
    if isinstance(mask, list):  # polygons
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    elif isinstance(mask['counts'], list):
        mask = coco_mask.frPyObjects(mask, height, width)
    return coco_mask.decode(mask)


def segmentations(dataset: Any, folder: str) -> tuple[int, Callable[[int], Tile]]:
    """Number of images in the test set, and a function that reads one."""

    def items(label_map: np.ndarray, reduce_zero_label: bool) -> list[Item]:
        if reduce_zero_label:  # 0 becomes 255, which is ignored
            label_map = label_map - 1
        return [Item(int(i), label_map == i) for i in np.unique(label_map) if i != 255]

    def read(index: int) -> Tile:
        info = dataset.get_data_info(int(index))
        files = info['seg_map_path'], Path(folder, Path(info['img_path']).stem + '.png')
        maps = (mmcv.imread(str(file), 'unchanged') for file in files)
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        truth, found = (items(m, info['reduce_zero_label']) for m in maps)
        grey = np.repeat(image.mean(2, keepdims=True).astype(np.uint8), 3, 2)
        return {'image': (image, []), 'ground truth': (grey, truth), 'prediction': (grey, found)}

    return len(dataset), read


def draw_sheet(tiles: list[Tile], metainfo: dict[str, Any], columns: int, height: int) -> Figure:
    """Draw tiles on a grid, with a legend of the classes that they show."""
    names, palette = metainfo['classes'], np.array(metainfo['palette']) / 255
    panels = [list(tile.items()) for tile in tiles]
    widths = [round(p[0][1][0].shape[1] * height / p[0][1][0].shape[0]) for p in panels]
    cell = np.array([len(panels[0]) * (max(widths) + GAP // 2) + GAP // 2, height + GAP])
    grid = cell * [columns, math.ceil(len(tiles) / columns)] + GAP
    shown = sorted({i.label for tile in tiles for _, items in tile.values() for i in items})
    per_line = max(min(len(shown), grid[0] // (9 * LINE // 2)), 1)
    lines = 1 + math.ceil(len(shown) / per_line)  # one of titles, the rest legend
    size = grid + np.array([0, LINE * lines])
    figure = Figure(size / DPI, dpi=DPI)
    for number, (tile, width) in enumerate(zip(panels, widths, strict=True)):
        row, column = divmod(number, columns)
        for side, (title, (image, items)) in enumerate(tile):
            left = GAP + column * cell[0] + side * (width + GAP // 2)
            bottom = size[1] - LINE - (row + 1) * cell[1]
            axes = figure.add_axes([*([left, bottom] / size), *([width, height] / size)])
            draw(axes, image, items, names, palette, height)
            if row == 0:
                axes.set_title(title, fontsize=LINE * POINT / 2, pad=LINE * POINT / 5)
    figure.legend(
        handles=[Patch(color=palette[i], label=names[i]) for i in shown],
        loc='lower center', ncols=per_line, frameon=False, fontsize=LINE * POINT / 2,
    )  # fmt: skip
    return figure


def draw(
    axes: Axes, image: np.ndarray, items: list[Item], names: Any, palette: np.ndarray, height: int
) -> None:
    """Draw items on an image: outlines, and a tint that leaves its own colours visible."""
    axes.imshow(image, interpolation='bicubic')
    axes.set_axis_off()
    axes.autoscale(False)
    unit = height / 320 * POINT  # a pixel of an image of the usual height
    halo = [withStroke(linewidth=3.5 * unit, foreground='black', alpha=0.5)]
    labels: list[Bbox] = []
    for item in items:
        colour = palette[item.label]
        if item.mask is not None:
            # A border of zeros closes outlines; the blur rounds steps between pixels.
            mask = cv2.GaussianBlur(np.pad(item.mask, 1).astype(np.float32), (5, 5), 0)
            y, x = (np.arange(length) - 1 for length in mask.shape)
            # Regions of a label map share outlines, so the colour alone tells them apart.
            tint = 0.7 if item.box is None else 0.15
            axes.contourf(x, y, mask, [0.5, 2], colors=[colour], alpha=tint)
            if item.box is not None:
                line = axes.contour(x, y, mask, [0.5], colors=[colour], linewidths=2.5 * unit)
                line.set_path_effects(halo)
        if item.box is not None:
            x1, y1, x2, y2 = item.box - 0.5  # the middle of the first pixel is 0 here
            box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour)
            box.set(linewidth=1.5 * unit, path_effects=halo)
            axes.add_patch(box)
            text = axes.text(
                0, 0, names[item.label] + ('' if item.score is None else f' {item.score:.2f}'),
                fontsize=15 * unit, color='black' if colour @ LUMA > 0.45 else 'white',
                bbox=dict(facecolor=colour, edgecolor='none', pad=1.5 * unit),
            )  # fmt: skip
            labels.append(place(text, (x1, x2), (y1, y2), axes.get_window_extent(), labels))


def place(text: Text, xs: tuple, ys: tuple, frame: Bbox, labels: list[Bbox]) -> Bbox:
    """Move a label to a corner of its box, inside the image and off other labels if it can be."""

    def faults(spot: dict[str, Any]) -> int:
        text.set(**spot)
        area = text.get_window_extent()
        inside = (frame.min <= area.min).all() and (area.max <= frame.max).all()
        return (not inside) * (len(labels) + 1) + sum(map(area.overlaps, labels))

    spots = (
        dict(x=x, y=y, ha=ha, va=va)
        for y, va in ((ys[0], 'bottom'), (ys[1], 'top'), (ys[0], 'top'))
        for x, ha in zip(xs, ('left', 'right'), strict=True)
    )
    text.set(**min(spots, key=faults))
    return text.get_window_extent()


if __name__ == '__main__':
    main()
