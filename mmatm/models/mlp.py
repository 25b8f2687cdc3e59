"""The channel MLP of a block, without its large temporaries on a CPU."""

from typing import Any

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from ..compat import is_compiling, is_cpu_autocast_enabled

# From about this size on a hidden map leaves the cache, and its memory goes back to the system when
# it is freed, so that every use pays for new pages: that costs as much as computing it twice.
_LARGE = 8 * 2**20
_TILE = 4 * 2**20  # hidden bytes at a time, so that they stay in the cache


class ChannelMlp(Mlp):
    """Linear, GELU, linear, along the channels of ``[..., C]``.

    Same parameters and same function as timm's ``Mlp``. On a CPU a large map is taken in tiles of
    tokens: the hidden map, several times as large as the input, then never exists as a whole, and
    training stores the input alone and computes the hidden tiles again in the backward pass.
    """

    fc1: nn.Linear
    fc2: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C]``."""
        hidden_bytes = x.numel() // x.shape[-1] * self.fc1.out_features * x.element_size()
        if (
            x.device.type != 'cpu'
            or hidden_bytes < _LARGE
            or is_compiling()
            or torch.jit.is_tracing()
            or is_cpu_autocast_enabled()
        ):
            return super().forward(x)
        tile = max(1, _TILE // (self.fc1.out_features * x.element_size()))
        return _TiledMlp.apply(
            x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias, tile
        )


class _TiledMlp(torch.autograd.Function):
    """``gelu(x @ w1.T + b1) @ w2.T + b2`` for ``tile`` tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, tile: int
    ) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        ctx.tile = tile
        tokens = x.reshape(-1, x.shape[-1])
        out = torch.empty(len(tokens), len(w2), dtype=x.dtype)
        hidden = torch.empty(tile, len(w1), dtype=x.dtype)
        for part, result in zip(tokens.split(tile), out.split(tile), strict=True):
            h = hidden[: len(part)]
            torch.addmm(b1, part, w1.t(), out=h)
            torch.ops.aten.gelu_(h)
            torch.addmm(b2, h, w2.t(), out=result)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        tokens, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, len(w2))
        grad_x = torch.empty_like(tokens)
        grad_w1, grad_b1, grad_w2 = (torch.zeros_like(p) for p in (w1, b1, w2))
        buffers = [torch.empty(ctx.tile, len(w1), dtype=x.dtype) for _ in range(3)]
        for part, grad_part, grad_x_part in zip(
            tokens.split(ctx.tile), grad.split(ctx.tile), grad_x.split(ctx.tile), strict=True
        ):
            h, g, grad_g = (buffer[: len(part)] for buffer in buffers)
            torch.addmm(b1, part, w1.t(), out=h)
            torch.ops.aten.gelu.out(h, out=g)
            grad_w2.addmm_(grad_part.t(), g)
            torch.mm(grad_part, w2, out=grad_g)
            grad_h = torch.ops.aten.gelu_backward.grad_input(grad_g, h, grad_input=g)
            grad_w1.addmm_(grad_h.t(), part)
            grad_b1 += grad_h.sum(0)
            torch.mm(grad_h, w1, out=grad_x_part)
        return grad_x.view_as(x), grad_w1, grad_b1, grad_w2, grad.sum(0), None
