"""Multi-scale deformable attention (arXiv 2010.04159), with ``grid_sample``."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import widen


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted sums of bilinearly sampled values, which are 0 outside the maps.

    Half-precision inputs are sampled in float32.

    Args:
        value: ``[B, S, heads, C]``, the concatenated maps of all levels.
        value_spatial_shapes: ``(height, width)`` of each level, ``[levels, 2]``.
        value_level_start_index: where each level starts in ``S``, ``[levels]``.
        sampling_locations: ``(x, y)`` from 0 to 1, ``[B, queries, heads, levels, points, 2]``.
        attention_weights: ``[B, queries, heads, levels, points]``.
        im2col_step: not used.

    Returns:
        ``[B, queries, heads * C]``.
    """
    batch, _, heads, channels = value.shape
    output = widen(value).new_zeros(batch, sampling_locations.shape[1], heads * channels)
    for level, cells, size in _levels(value_spatial_shapes, value_level_start_index):
        output += _attend(
            size,
            widen(value[:, cells]),
            widen(sampling_locations[:, :, :, level]),
            widen(attention_weights[:, :, :, level]),
        )
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Backward pass of :func:`ms_deform_attn_forward`; adds to the three gradients."""
    for level, cells, size in _levels(value_spatial_shapes, value_level_start_index):
        inputs = [
            widen(x).detach().requires_grad_()
            for x in (
                value[:, cells],
                sampling_locations[:, :, :, level],
                attention_weights[:, :, :, level],
            )
        ]
        with torch.enable_grad():
            output = _attend(size, *inputs)
        grads = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
        grad_value[:, cells] += grads[0]
        grad_sampling_loc[:, :, :, level] += grads[1]
        grad_attn_weight[:, :, :, level] += grads[2]


def _levels(shapes: Tensor, starts: Tensor) -> Iterator[tuple[int, slice, tuple[int, int]]]:
    """Number, cells and size of each level."""
    rows = torch.cat([shapes, starts.unsqueeze(1)], dim=1).tolist()
    for level, (height, width, start) in enumerate(rows):
        yield level, slice(start, start + height * width), (height, width)


def _attend(size: tuple[int, int], value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """The contribution of one level, ``[B, queries, heads * C]``."""
    batch, _, heads, channels = value.shape
    maps = value.permute(0, 2, 3, 1).reshape(batch * heads, channels, *size)
    grid = 2 * locations.transpose(1, 2).flatten(0, 1) - 1  # [B * heads, queries, points, (x, y)]
    samples = F.grid_sample(maps, grid, align_corners=False)
    sums = (samples * weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(3)
    return sums.reshape(batch, heads * channels, sums.shape[2]).transpose(1, 2)
