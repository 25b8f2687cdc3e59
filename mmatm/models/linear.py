"""Linear layers that use the faster matrix products of a CPU."""

import re
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.compat import is_compiling, is_cpu_autocast_enabled, is_transforming


class Linear(nn.Linear):
    """``nn.Linear`` for ``[..., K]``, computed by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., K]`` to ``[..., N]``."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear(x, weight, bias)`` of ``x [..., K]``, ``weight [N, K]`` and ``bias [N]``.

    On x86 torch hands linear layers to MKL and convolutions to oneDNN. MKL leaves half of the
    vector width of AMD's Zen 5 unused, oneDNN does not, so there a large product is written as a
    convolution with a 1x1 kernel, which also adds the bias without another pass. On Zen 4 MKL was
    measured to be as fast or faster.
    """
    if not linear_is_convolution(x):
        return F.linear(x, weight, bias)
    out = F.conv2d(_row(x), weight[..., None, None], bias)
    return _tokens(out).view(*x.shape[:-1], -1)


def linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass of :func:`linear`.

    Args:
        grad: gradient of the output, ``[M, N]``.
        x: input, ``[M, K]``.
        weight: ``[N, K]``.

    Returns:
        the gradients of ``x``, ``weight`` and the bias.
    """
    if not linear_is_convolution(x):
        return grad @ weight, grad.mT @ x, grad.sum(0)
    grad_row, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        _row(grad), _row(x), weight[..., None, None], [len(weight)],
        [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True],
    )  # fmt: skip
    return _tokens(grad_row), grad_weight.flatten(1), grad_bias


def _row(x: Tensor) -> Tensor:
    """Tokens ``[..., K]`` as one row of an image ``[1, K, 1, M]``, channels last in memory."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


def _tokens(row: Tensor) -> Tensor:
    return row.permute(0, 2, 3, 1).reshape(-1, row.shape[1])


def linear_is_convolution(x: Tensor) -> bool:
    """Whether :func:`linear` of ``x`` is computed as a convolution."""
    if is_compiling() or is_transforming() or torch.jit.is_tracing() or not onednn_is_faster():
        return False
    if x.dtype == torch.float32:
        suits = not is_cpu_autocast_enabled()
    else:
        suits = x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (
        suits
        and x.device.type == 'cpu'
        # oneDNN rearranges the weights at every call, which few tokens do not repay.
        and x.numel() >= 128 * x.shape[-1]
        and x.numel() > 20480  # torch hands smaller convolutions to MKL as well
    )


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor whose vector width MKL does not use: AMD's Zen 5 or newer.

    Told by the processor's family and not by measuring, so that equal runs give equal bits.
    """
    try:
        text = Path('/proc/cpuinfo').read_text()
    except OSError:
        return False
    family = re.search(r'^cpu family\s*:\s*(\d+)$', text, re.MULTILINE)
    return (
        'AuthenticAMD' in text
        and family is not None
        and int(family[1]) >= 26
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
    )
