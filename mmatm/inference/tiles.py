"""Large images in overlapping tiles."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional


def positions(length: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin along one side, in pixels; the last one ends with the image.

    Args:
        length: side of the image, in pixels.
        tile: side of a tile, in pixels.
        overlap: least share of a tile that its neighbour covers, in [0, 1).
    """
    last = max(length - tile, 0)
    stride = max(int(tile * (1 - overlap)), 1)
    return [*range(0, last, stride), last]


def grid(shape: tuple[int, ...], tile: int, overlap: float) -> list[tuple[int, int]]:
    """Return the positions (y, x) of all tiles of an image, row by row."""
    height, width = shape[:2]
    columns = positions(width, tile, overlap)
    return [(y, x) for y in positions(height, tile, overlap) for x in columns]


def merge_objects(
    samples: list[Any], places: list[tuple[int, int]], shape: tuple[int, ...], tile: int, nms: dict
) -> Any:
    """Merge a detector's predictions for tiles with mmcv's batched NMS.

    A tile may cut an object that a neighbour shows whole. NMS keeps such a part if it is small, so
    a box at an inner edge of its tile is dropped if one of another tile, of the same class, covers
    most of it.

    Args:
        samples: predictions with masks in COCO's format.
        places: position (y, x) of each tile.
        shape: height and width of the image.
        tile: side of a tile, in pixels.
        nms: settings of mmcv's ``batched_nms``.

    Returns:
        A data sample for the whole image.
    """
    from mmcv.ops import batched_nms
    from mmdet.structures.bbox import bbox_overlaps
    from mmengine.structures import InstanceData

    height, width = shape[:2]
    parts = []
    for number, (sample, (y, x)) in enumerate(zip(samples, places, strict=True)):
        found = sample.pred_instances
        boxes = found.bboxes
        inner = [x > 0, y > 0, x + tile < width, y + tile < height]
        edges = boxes.new_tensor([0, 0, min(tile, width), min(tile, height)])
        found.cut = (((boxes - edges).abs() < tile / 32) & torch.tensor(inner)).any(1)
        found.tile = torch.full_like(found.labels, number)
        found.bboxes = boxes + boxes.new_tensor([x, y, x, y])
        parts.append(found)
    merged = InstanceData.cat(parts)
    if len(merged):
        best, kept = batched_nms(merged.bboxes, merged.scores, merged.labels, dict(nms))
        merged = merged[kept]
        merged.scores = best[:, 4]  # soft NMS lowers them
        cut = merged[merged.cut]  # fewer than all: pairs of these may not fit into memory
        covered = bbox_overlaps(cut.bboxes, merged.bboxes, mode='iof')
        rival = (cut.tile[:, None] != merged.tile) & (cut.labels[:, None] == merged.labels)
        whole = ~merged.cut | (_area(merged.bboxes) > _area(cut.bboxes)[:, None])
        dropped = merged.cut.clone()
        dropped[merged.cut] = ((covered > 0.7) & rival & whole).any(1)
        merged = merged[~dropped]
    if 'masks' in merged:
        merged.masks = [
            _move(mask, places[index], shape)
            for mask, index in zip(merged.masks, merged.tile.tolist(), strict=True)
        ]
    for name in ('cut', 'tile'):
        merged.pop(name)
    return type(samples[0])(metainfo=dict(ori_shape=(height, width)), pred_instances=merged)


def _area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _move(mask: dict, place: tuple[int, int], shape: tuple[int, ...]) -> dict:
    """Place the mask of a tile in the whole image, without decoding an image of that size."""
    (y, x), (height, width) = place, shape[:2]
    tile = coco_mask.decode(mask).astype(np.int8)
    edges = np.diff(np.pad(tile, ((1, 1), (0, 0))), axis=0)
    columns, rows = np.nonzero(edges.T)  # where runs begin and end, column by column
    at, times = np.unique((columns + x) * height + rows + y, return_counts=True)
    # A run that ends where the next begins goes on, and the last one may end with the image.
    at = at[(times == 1) & (at < height * width)]
    counts = np.diff(at, prepend=0, append=height * width).tolist()
    return coco_mask.frPyObjects(dict(size=[height, width], counts=counts), height, width)


def merge_logits(
    logits: Iterable[torch.Tensor],
    places: list[tuple[int, int]],
    shape: tuple[int, ...],
    threshold: float,
) -> torch.Tensor:
    """Average a segmentor's logits where tiles overlap, and choose the classes.

    Only one row of tiles is held at a time, because the logits of a large image may not fit into
    memory.

    Args:
        logits: ``[classes, h, w]`` for each tile; probabilities if there is one class.
        places: position (y, x) of each tile, row by row.
        shape: height and width of the image.
        threshold: lowest probability of the only class.

    Returns:
        Label map ``[1, H, W]``.
    """
    bands: list[torch.Tensor] = []
    band = torch.zeros(0)  # sums of the logits, and last how many there are
    top = 0
    for tile, (y, x) in zip(logits, places, strict=True):
        classes, height, width = tile.shape
        if not len(band):
            band = torch.zeros(classes + 1, height, shape[1])
        elif y > top:
            bands.append(_choose(band[:, : y - top], threshold))
            band = functional.pad(band[:, y - top :], (0, 0, 0, y - top))
        top = y
        band[:-1, :, x : x + width] += tile
        band[-1, :, x : x + width] += 1
    bands.append(_choose(band, threshold))
    return torch.cat(bands)[None]


def _choose(band: torch.Tensor, threshold: float) -> torch.Tensor:
    mean = band[:-1] / band[-1]
    return mean.argmax(0) if len(mean) > 1 else (mean[0] > threshold).long()
