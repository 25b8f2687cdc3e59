"""The sampling operator in operators that ONNX has, in several ways.

Each computes :func:`mmatm.ops.active_sample`, for finite offsets. ``tools/benchmark.py onnx`` times
them in onnxruntime; docs/deployment.md keeps the figures and says which is used.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def gather(x: Tensor, offset: Tensor) -> Tensor:
    """Gather: ``C / G`` channels at a time, as rows of a table, one index per token and group."""
    return _along_both(x, offset, lambda x, o: _interpolate(x, o, _pick_rows))


def gather_elements(x: Tensor, offset: Tensor) -> Tensor:
    """GatherElements: one index per token and channel."""
    return _along_both(x, offset, lambda x, o: _interpolate(x, o, _pick_elements))


def gather_nd(x: Tensor, offset: Tensor) -> Tensor:
    """GatherND: four indices per token and group."""
    return _along_both(x, offset, lambda x, o: _interpolate(x, o, _pick_tuples))


def grid_sample(x: Tensor, offset: Tensor) -> Tensor:
    """GridSample of every row and every column, as an image of one line.

    Positions are divided by the size of the map and multiplied by it again, so it is not exact.
    """
    return _along_both(x, offset, _sample_lines)


FORMULATIONS = {f.__name__: f for f in (gather, gather_elements, gather_nd, grid_sample)}


def _along_both(x: Tensor, offset: Tensor, sample: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``sample`` knows the width alone, so the height is sampled on the transposed map."""
    along_width, along_height = offset.split(int(offset.shape[-1]) // 2, dim=-1)
    height = sample(x.transpose(1, 2), along_height.transpose(1, 2)).transpose(1, 2)
    return torch.cat([sample(x, along_width), height], dim=-1)


def _interpolate(x: Tensor, offset: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``x [B, H, W, C]`` at ``index + offset [B, H, W, G]`` along ``W``, ``[B, H, W, C]``."""
    size, channels, groups = x.shape[2], int(x.shape[3]), int(offset.shape[3])
    x = F.pad(x, (0, 0, 1, 1))  # what is outside counts as zero, so all of it is like this
    token = torch.arange(size)
    position = offset + token.to(offset.dtype).view(1, 1, -1, 1)
    position = torch.minimum(position.clamp(min=-1), (token[-1:] + 1).to(offset.dtype))
    first = torch.minimum(position.floor(), token[-1:].to(offset.dtype))
    # A product with zeros and ones repeats each weight faster than broadcasting does, and exactly.
    repeat = torch.eye(groups).repeat_interleave(channels // groups, dim=1).to(offset.dtype)
    weight = (position - first) @ repeat
    index = first.int() + 1
    left, right = pick(x, index), pick(x, index + 1)
    return left + weight * (right - left)


def _pick_rows(x: Tensor, index: Tensor) -> Tensor:
    """``x [B, H, W, C]`` at ``index [B, H, W', G]`` along ``W``, ``[B, H, W', C]``."""
    batch, height, width = x.shape[:3]
    channels, groups = int(x.shape[3]), int(index.shape[3])
    line = torch.arange(batch * height, dtype=torch.int32).view(batch, height, 1, 1)
    row = (line * width + index) * groups + torch.arange(groups, dtype=torch.int32)
    return F.embedding(row, x.reshape(-1, channels // groups)).flatten(3)


def _pick_elements(x: Tensor, index: Tensor) -> Tensor:
    repeats = x.shape[3] // index.shape[3]
    index = index.long().unsqueeze(-1).expand(-1, -1, -1, -1, repeats)
    return x.gather(2, index.flatten(3))


def _pick_tuples(x: Tensor, index: Tensor) -> Tensor:
    batch, height = x.shape[:2]
    b, h = torch.arange(batch).view(-1, 1, 1, 1), torch.arange(height).view(1, -1, 1, 1)
    groups = index.shape[3]
    return x.unflatten(-1, (groups, -1))[b, h, index.long(), torch.arange(groups)].flatten(3)


def _sample_lines(x: Tensor, offset: Tensor) -> Tensor:
    """The same as :func:`_interpolate`."""
    batch, height, width, channels = x.shape
    groups = offset.shape[-1]
    lines = x.unflatten(-1, (groups, -1)).permute(0, 1, 3, 4, 2)  # [B, H, G, C / G, W]
    lines = lines.reshape(-1, channels // groups, 1, width)
    position = offset + torch.arange(width).to(offset.dtype).view(1, 1, -1, 1)
    position = (2 * position + 1) / width - 1
    position = position.permute(0, 1, 3, 2).reshape(-1, 1, width)
    grid = torch.stack([position, torch.zeros_like(position)], dim=-1)
    out = F.grid_sample(lines, grid, align_corners=False)
    out = out.reshape(batch, height, groups, channels // groups, width)
    return out.permute(0, 1, 4, 2, 3).reshape(x.shape)
