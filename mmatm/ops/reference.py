"""Plain-PyTorch definition of the sampling step, which every faster backend is held against."""

import torch
from torch import Tensor


def active_sample(x: Tensor, offset: Tensor) -> Tensor:
    """Sample ``x`` along its width and its height; see :func:`mmatm.ops.active_sample`.

    Half-precision inputs are interpolated in float32, so that positions stay exact.
    """
    groups = offset.shape[-1] // 2
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    grouped = x.to(dtype).unflatten(-1, (groups, x.shape[-1] // groups))
    along_width, along_height = offset.to(dtype).split(groups, dim=-1)
    samples = (_interpolate(grouped, along_width, 2), _interpolate(grouped, along_height, 1))
    return torch.cat([s.flatten(-2) for s in samples], dim=-1).to(x.dtype)


def _interpolate(x: Tensor, offset: Tensor, dim: int) -> Tensor:
    """``x [B, H, W, G, C/G]`` read at ``index + offset [B, H, W, G]`` along ``dim`` (1 or 2)."""
    size = x.shape[dim]
    index = torch.arange(size, dtype=offset.dtype, device=offset.device)
    position = offset + index.view([-1 if d == dim else 1 for d in range(offset.dim())])
    first = position.floor()
    # inf - inf is NaN, but an infinite position is merely outside; a NaN position stays NaN.
    weight = (position - first).masked_fill(position.isinf(), 0).unsqueeze(-1)
    return (1 - weight) * _tap(x, first, dim) + weight * _tap(x, first + 1, dim)


def _tap(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """``x`` at the integral, float-typed ``index``; zero where that is outside, inf or NaN."""
    inside = (index >= 0) & (index < x.shape[dim])
    index = index.where(inside, 0).long().unsqueeze(-1)
    return x.gather(dim, index.expand_as(x)).where(inside.unsqueeze(-1), 0)
