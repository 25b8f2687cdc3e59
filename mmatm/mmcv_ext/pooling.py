"""Pool the features in a box to a fixed number of bins: RoIAlign and RoIPool.

RoIAlign's average, which detectors use, calls torchvision. RoIAlign's maximum and the forward pass
of RoIPool are plain PyTorch, one box at a time: torchvision has no maximum, and its RoIPool rounds
the corners of a box, which mmcv's does not.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .kernels import in_threads, torchvision, widen

_MAXIMUM = 0  # mmcv's pool_mode; 1 is the average


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (arXiv 1703.06870).

    Args:
        input: features, ``[B, C, H, W]``.
        rois: boxes, ``[K, 5]``: the index of an image, then ``(x1, y1, x2, y2)``.
        output: receives the result, ``[K, C, aligned_height, aligned_width]``.
        argmax_y: like ``output``; receives the sampling position of each maximum, -1 in an empty
            box. Not used for the average.
        argmax_x: the same along the width.
        aligned_height: number of bins.
        aligned_width: number of bins.
        spatial_scale: size of the map relative to the image.
        sampling_ratio: samples per bin along an axis; 0 for about one per cell of the map.
        pool_mode: 0 for the maximum of the samples in a bin, 1 for their average.
        aligned: whether position 0 is the edge of the first cell, rather than its center.
    """
    if pool_mode == _MAXIMUM:
        _roi_align_maximum(
            input, rois, output, argmax_y, argmax_x, spatial_scale, sampling_ratio, aligned
        )
        return
    features = widen(input, keep_half=True)
    boxes, bins = rois.to(features.dtype), (aligned_height, aligned_width)
    arguments = (spatial_scale, *bins, sampling_ratio, aligned)
    align = torchvision().roi_align
    output.copy_(in_threads(lambda part: align(features, part, *arguments), boxes, dim=0))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Backward pass of :func:`roi_align_forward`; adds to ``grad_input``, ``[B, C, H, W]``."""
    if pool_mode == _MAXIMUM:
        _roi_align_maximum_backward(grad_output, rois, argmax_y, argmax_x, grad_input)
        return
    grad = widen(grad_output, keep_half=True)
    boxes, bins = rois.to(grad.dtype), (aligned_height, aligned_width)
    align, (images, _, height, width) = torchvision()._roi_align_backward, grad_input.shape
    grad_input += in_threads(
        lambda part: align(
            part, boxes, spatial_scale, *bins, images, part.shape[1], height, width,
            sampling_ratio, aligned,
        ),
        grad,
        dim=1,
    )  # fmt: skip


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool (arXiv 1504.08083).

    Args:
        input: features, ``[B, C, H, W]``.
        rois: boxes, ``[K, 5]``, as above; one is ``x2 - x1 + 1`` wide.
        output: receives the maximum of each bin, ``[K, C, pooled_height, pooled_width]``; 0 in an
            empty bin.
        argmax: int32, like ``output``; receives the cell of each maximum, ``y * W + x``, or -1 in
            an empty bin.
        pooled_height: number of bins.
        pooled_width: number of bins.
        spatial_scale: size of the map relative to the image.
    """
    features, boxes = widen(input), widen(rois)
    height, width = features.shape[2:]
    start, end = boxes[:, 1:3] * spatial_scale, (boxes[:, 3:] + 1) * spatial_scale
    x, x_end = _bins(start[:, 0], end[:, 0], pooled_width, width)
    y, y_end = _bins(start[:, 1], end[:, 1], pooled_height, height)
    counts = torch.stack([(y_end - y).amax(1), (x_end - x).amax(1)], dim=1)
    counts[(end <= start).any(1)] = 0
    for k, image, (rows, columns) in _enumerate(boxes, counts):
        if rows <= 0 or columns <= 0:
            output[k], argmax[k] = 0, -1
            continue
        cell_y = y[k].unsqueeze(1) + torch.arange(rows, device=y.device)
        cell_x = x[k].unsqueeze(1) + torch.arange(columns, device=x.device)
        inside_y, inside_x = cell_y < y_end[k].unsqueeze(1), cell_x < x_end[k].unsqueeze(1)
        samples = features[image][:, cell_y.clamp(max=height - 1)]
        samples = samples[..., cell_x.clamp(max=width - 1)]
        samples = samples.where(inside_y[:, :, None, None] & inside_x, -torch.inf)
        maximum, max_y, max_x = _maximum(samples, cell_y, cell_x)
        filled = inside_y.any(1).unsqueeze(1) & inside_x.any(1)
        output[k], argmax[k] = maximum.where(filled, 0), (max_y * width + max_x).where(filled, -1)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Backward pass of :func:`roi_pool_forward`; adds to ``grad_input``, ``[B, C, H, W]``."""
    grad, bins = widen(grad_output), (pooled_height, pooled_width)
    grad_input += torchvision()._roi_pool_backward(
        grad, rois.to(grad.dtype), argmax, spatial_scale, *bins, *grad_input.shape
    )


def _roi_align_maximum(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    features, boxes = widen(input), widen(rois)
    rows_of_bins, columns_of_bins = output.shape[2:]
    start, end = (boxes[:, 1:] * spatial_scale - (0.5 if aligned else 0)).split(2, dim=1)
    size = end - start if aligned else (end - start).clamp(min=1)
    step = size / size.new_tensor([columns_of_bins, rows_of_bins])
    counts = torch.full_like(step, sampling_ratio) if sampling_ratio > 0 else step.ceil()
    for k, image, (columns, rows) in _enumerate(boxes, counts):
        if rows <= 0 or columns <= 0:
            output[k], argmax_y[k], argmax_x[k] = 0, -1, -1
            continue
        y = _sampling_positions(start[k, 1], step[k, 1], rows_of_bins, rows)
        x = _sampling_positions(start[k, 0], step[k, 0], columns_of_bins, columns)
        samples = _interpolate(_interpolate(features[image], y, 1), x, 3)
        output[k], argmax_y[k], argmax_x[k] = _maximum(samples, y, x)


def _roi_align_maximum_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor
) -> None:
    image = rois[:, 0].long().view(-1, 1, 1, 1)
    channel = torch.arange(grad_input.shape[1], device=rois.device).view(-1, 1, 1)
    top, bottom, low, inside_y = _neighbors(widen(argmax_y), grad_input.shape[2])
    left, right, late, inside_x = _neighbors(widen(argmax_x), grad_input.shape[3])
    sampled = inside_y & inside_x & (argmax_y != -1)
    grad = widen(grad_output).where(sampled, 0)
    total = torch.zeros_like(widen(grad_input))
    for y, share_y in ((top, 1 - low), (bottom, low)):
        for x, share_x in ((left, 1 - late), (right, late)):
            total.index_put_((image, channel, y, x), grad * share_y * share_x, accumulate=True)
    grad_input += total


def _sampling_positions(start: Tensor, step: Tensor, bins: int, count: int) -> Tensor:
    """Positions of ``count`` samples in each of the ``bins`` of a box, ``[bins, count]``."""
    bin, sample = (torch.arange(n, dtype=start.dtype, device=start.device) for n in (bins, count))
    return start + step * bin.unsqueeze(1) + (sample + 0.5) * step / count


def _interpolate(features: Tensor, position: Tensor, dim: int) -> Tensor:
    """Interpolate along ``dim``, which becomes the two dimensions of ``position``."""
    low, high, weight, inside = _neighbors(position.flatten(), features.shape[dim])
    column = (-1, *[1] * (features.dim() - 1 - dim))
    weight, inside = weight.view(column), inside.view(column)
    first, second = features.index_select(dim, low), features.index_select(dim, high)
    read = first * (1 - weight) + second * weight
    return read.where(inside, 0).unflatten(dim, position.shape)


def _neighbors(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two cells next to a position, the weight of the second, and whether one is near."""
    inside = (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    low = position.long()
    return low, (low + 1).clamp(max=size - 1), position - low, inside


def _bins(start: Tensor, end: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """The first cell of each bin of RoIPool, and the end of the bin, both ``[K, bins]``."""
    step = ((end - start) / bins).unsqueeze(1)
    edges = start.unsqueeze(1) + step * torch.arange(bins + 1, device=start.device)
    first, last = edges[:, :-1].floor(), edges[:, 1:].ceil()
    return first.clamp(0, size).long(), last.clamp(0, size).long()


def _maximum(samples: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The maximum of each bin, and the ``y`` and ``x`` of the first sample that attains it.

    Args:
        samples: ``[C, height, rows, width, columns]``, for ``height * width`` bins.
        y: position of each row, ``[height, rows]``.
        x: position of each column, ``[width, columns]``.

    Returns:
        Three tensors ``[C, height, width]``.
    """
    samples = samples.transpose(2, 3).flatten(3)
    place = samples.argmax(3)
    row, column = place // x.shape[1], place % x.shape[1]
    bin_y, bin_x = (torch.arange(len(part), device=part.device) for part in (y, x))
    maximum = samples.gather(3, place.unsqueeze(3)).squeeze(3)
    return maximum, y[bin_y.unsqueeze(1), row], x[bin_x, column]


def _enumerate(rois: Tensor, counts: Tensor) -> Iterator[tuple[int, int, list[int]]]:
    """The index, image and counts of each box."""
    yield from zip(range(len(rois)), rois[:, 0].int().tolist(), counts.int().tolist(), strict=True)
