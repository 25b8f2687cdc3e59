"""C++ backend of the sampling step, for CPU tensors; ``setup.py`` compiles it as ``_C``."""

from torch import Tensor

try:
    from . import _C
except ImportError:
    _C = None


def is_available() -> bool:
    """Whether the extension is built and loads."""
    return _C is not None


def forward(x: Tensor, offset: Tensor) -> Tensor:
    """``x [B, H, W, C]`` and ``offset [B, H, W, 2G]`` to samples ``[B, H, W, 2C]``."""
    return _C.forward(x, offset)


def backward(grad: Tensor, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` and ``offset`` for that of the samples; the same bits every time."""
    return _C.backward(grad, x, offset)


def forward_mean(x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Samples, and the mean over all tokens of ``[samples, x]``, ``[B, 3C]``."""
    return _C.forward_mean(x, offset)


def backward_mean(
    grad: Tensor, grad_mean: Tensor, x: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` and ``offset`` for those of :func:`forward_mean`'s two outputs."""
    return _C.backward_mean(grad, grad_mean, x, offset)
