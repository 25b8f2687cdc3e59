"""Plain-PyTorch definition of the sampling step, which every faster backend is held against."""

from collections.abc import Callable, Sequence
from typing import Any

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


def active_sample_mean(x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The samples, ``[B, H, W, 2 * C]``, and the mean of them and ``x``, ``[B, 3 * C]``."""
    samples = active_sample(x, offset)
    return samples, torch.cat([samples.mean((1, 2)), x.mean((1, 2))], dim=1)


def active_sample_backward(grad: Tensor, x: Tensor, offset: Tensor) -> Any:
    """Gradients of ``x`` and ``offset``, given that of the samples, ``[B, H, W, 2 * C]``."""
    return pull_back(active_sample, (grad,), (x, offset))


def active_sample_mean_backward(grad: Tensor, grad_mean: Tensor, x: Tensor, offset: Tensor) -> Any:
    """Gradients of ``x`` and ``offset``, given those of :func:`active_sample_mean`'s results."""
    return pull_back(active_sample_mean, (grad, grad_mean), (x, offset))


def pull_back(function: Callable, grads: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
    """Gradients of ``inputs``, given those of the results of ``function(*inputs)``.

    They are differentiable in everything, any number of times.
    """
    results, pull = torch.func.vjp(function, *inputs)  # type: ignore[misc]
    return pull(grads[0] if isinstance(results, Tensor) else tuple(grads))


def push_forward(
    function: Callable, tangents: Sequence[Tensor | None], inputs: Sequence[Tensor]
) -> Any:
    """The tangents of the results of ``function(*inputs)``, given those of ``inputs``.

    Reverse mode twice, because forward mode cannot be entered within itself: what pulls back is
    linear in the gradients, and its own transpose pushes forward.
    """
    tangents = [
        torch.zeros_like(i) if t is None else t for t, i in zip(tangents, inputs, strict=True)
    ]
    results = function(*inputs)
    single = isinstance(results, Tensor)
    grads = [torch.zeros_like(r) for r in ((results,) if single else results)]
    _, push = torch.func.vjp(lambda *grads: pull_back(function, grads, inputs), *grads)  # type: ignore[misc]
    pushed = push(tuple(tangents))
    return pushed[0] if single else pushed


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
