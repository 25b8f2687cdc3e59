"""The channel MLP of a block, without its large temporaries on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.compat import is_compiling, is_cpu_autocast_enabled, is_transforming
from .linear import Linear, linear, linear_backward

# From about this size on a hidden map leaves the cache, and its memory goes back to the system when
# it is freed, so that every use pays for new pages: that costs as much as computing it twice.
_LARGE = 8 * 2**20
_TILE = 4 * 2**20  # hidden bytes at a time, so that they stay in the cache


class ChannelMlp(nn.Module):
    """Linear, GELU, linear, along the channels of ``[..., C]``.

    On a CPU a large map is taken in tiles of tokens: the hidden map, several times as large as the
    input, then never exists as a whole, and training stores the input alone and computes the hidden
    tiles again in the backward pass.

    Args:
        dim: channels ``C``.
        hidden_dim: channels between the two layers.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C]``."""
        token_bytes = self.fc1.out_features * x.element_size()
        if (
            is_compiling()  # first, so that compiled code does not depend on the size
            or x.device.type != 'cpu'
            or x.numel() // x.shape[-1] * token_bytes < _LARGE
            or is_transforming()
            or torch.jit.is_tracing()
            or is_cpu_autocast_enabled()
        ):
            return self.fc2(F.gelu(self.fc1(x)))
        parameters = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        return _TiledMlp.apply(x, *parameters, max(1, _TILE // token_bytes))


class _TiledMlp(torch.autograd.Function):
    """``linear(gelu(linear(x, w1, b1)), w2, b2)`` for ``tile`` tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, tile: int
    ) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        ctx.tile = tile
        out = x.new_empty(*x.shape[:-1], len(w2))
        for part, result in zip(
            x.flatten(0, -2).split(tile), out.flatten(0, -2).split(tile), strict=True
        ):
            hidden = torch.ops.aten.gelu_(linear(part, w1, b1))
            result.copy_(linear(hidden, w2, b2))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        if torch.is_grad_enabled():  # it is to be differentiated again, so tiles save nothing
            _, pull_back = torch.func.vjp(_mlp_without_last_bias, x, w1, b1, w2)  # type: ignore[misc]
            return *pull_back(grad), grad.flatten(0, -2).sum(0), None
        tokens, grad = x.flatten(0, -2), grad.reshape(-1, len(w2))
        grad_x = torch.empty_like(tokens)
        totals = [torch.zeros_like(p) for p in (w1, b1, w2, grad[0])]
        for part, grad_part, result in zip(
            tokens.split(ctx.tile), grad.split(ctx.tile), grad_x.split(ctx.tile), strict=True
        ):
            hidden = linear(part, w1, b1)
            grad_active, grad_w2, grad_b2 = linear_backward(grad_part, F.gelu(hidden), w2)
            grad_hidden = torch.ops.aten.gelu_backward(grad_active, hidden)
            grad_part_x, grad_w1, grad_b1 = linear_backward(grad_hidden, part, w1)
            result.copy_(grad_part_x)
            for total, increment in zip(totals, (grad_w1, grad_b1, grad_w2, grad_b2), strict=True):
                total += increment
        return grad_x.view_as(x), *totals, None


def _mlp_without_last_bias(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2)
