"""Non-maximum suppression of boxes ``(x1, y1, x2, y2)``."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kernels import torchvision

_Array = np.ndarray[Any, Any]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Non-maximum suppression, with torchvision.

    Args:
        boxes: ``[N, 4]``, of any dtype and device.
        scores: ``[N]``.
        iou_threshold: boxes that overlap a better one by more than this are dropped.
        offset: 0 or 1; a box is ``x2 - x1 + offset`` wide.

    Returns:
        int64 indices of the kept boxes, best first.
    """
    order = _by_score(scores)
    boxes, scores = boxes[order], scores[order]
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    if offset:
        dtype = torch.float64  # in which adding the offset is exact
        boxes = torch.cat([boxes[:, :2].to(dtype), boxes[:, 2:].to(dtype) + offset], dim=1)
    if dtype == torch.float32:
        iou_threshold = float(np.float32(iou_threshold))  # like the IoU that it is compared with
    return order[torchvision().nms(boxes.to(dtype), scores.to(dtype), iou_threshold)]


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (arXiv 1704.04503), which lowers the scores of boxes that overlap a better one.

    Args:
        boxes: ``[N, 4]``.
        scores: ``[N]``.
        dets: ``[N, 5]``; its first rows receive the remaining boxes and their new scores.
        iou_threshold: smallest overlap at which methods 0 and 1 lower scores.
        sigma: width of method 2.
        min_score: boxes whose score falls below this are dropped.
        method: scores are multiplied by 0 (0), ``1 - IoU`` (1) or ``exp(-IoU^2 / sigma)`` (2).
        offset: 0 or 1; a box is ``x2 - x1 + offset`` wide.

    Returns:
        int64 indices of the remaining boxes, on the CPU, in the order of ``dets``.
    """
    corners, score = _array(boxes).T, _array(scores).copy()
    number = corners.dtype.type
    rest: _Array = np.arange(len(score))
    chosen = []
    while len(rest):
        # Break ties as mmcv does, which swaps the best to the front and fills gaps from the end.
        place = score[rest].argmax()
        best, rest[place] = rest[place], rest[0]
        rest = rest[1:]
        chosen.append(best)
        iou = _overlaps(corners[:, [best]], corners[:, rest], offset)
        if method == 2:
            factor = np.exp(-(iou * iou) / number(sigma))
        else:
            factor = np.where(iou >= number(iou_threshold), (1 - iou) * method, 1)
        decayed = score[rest] * factor
        score[rest] = decayed
        rest = _keep(rest, ~(decayed < number(min_score)))
    kept = np.array(chosen, dtype=np.int64)
    dets[: len(kept)] = torch.from_numpy(np.vstack([corners[:, kept], score[kept]]).T)
    return torch.from_numpy(kept)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Non-maximum suppression that reports which box dropped which.

    Args:
        dets: boxes and their scores, ``[N, 5]``.
        iou_threshold: smallest overlap at which a better box drops another.

    Returns:
        One list of indices per kept box, best first: the box, then those that it dropped, in the
        order of their scores.
    """
    corners = _array(dets[:, :4]).T
    order = _by_score(dets[:, 4].detach().cpu()).numpy()
    groups = []
    while len(order):
        best, rest = order[:1], order[1:]
        iou = _overlaps(corners[:, best], corners[:, rest], 0)
        near = iou >= corners.dtype.type(iou_threshold)
        groups.append([*best.tolist(), *rest[near].tolist()])
        order = rest[~near]
    return groups


def _by_score(scores: Tensor) -> Tensor:
    """Indices in mmcv's order, best first; equal scores in the order of torch's sort."""
    return scores.sort(descending=True).indices


def _array(tensor: Tensor) -> _Array:
    """Convert to NumPy, in float64 if the tensor is, else in float32."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.detach().to('cpu', dtype).numpy()


def _overlaps(box: _Array, others: _Array, offset: int) -> _Array:
    """The IoU of one box, ``[4, 1]``, with others, ``[4, N]``."""
    x1, y1 = np.maximum(box[:2], others[:2])
    x2, y2 = np.minimum(box[2:], others[2:])
    shared = np.maximum(x2 - x1 + offset, 0) * np.maximum(y2 - y1 + offset, 0)
    with np.errstate(divide='ignore', invalid='ignore'):
        return shared / (_area(box, offset) + _area(others, offset) - shared)


def _area(boxes: _Array, offset: int) -> _Array:
    x1, y1, x2, y2 = boxes
    return (x2 - x1 + offset) * (y2 - y1 + offset)


def _keep(items: _Array, mask: _Array) -> _Array:
    """``items[mask]``, where the last items fill the gaps instead of moving up."""
    count = mask.sum()
    kept = items[:count]
    kept[~mask[:count]] = items[count:][mask[count:]][::-1]
    return kept
