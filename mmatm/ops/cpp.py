"""C++ backend of the sampling step, for CPU tensors; ``setup.py`` compiles it.

Results have the same bits in every run and for any number of threads.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

# An extension works with one minor release of torch, so it carries that in its name: those of
# several environments lie side by side, and none is loaded into a torch that it does not fit.
_NAME = '_C_torch' + '_'.join(torch.__version__.split('.')[:2])
_C: Any = None
load_error = ''  # why the extension is not available
try:
    _C = import_module(f'.{_NAME}', __package__)
except ImportError as error:
    load_error = str(error)


def is_available() -> bool:
    """Whether the extension is built and loads."""
    return _C is not None


def capability() -> str:
    """The instruction set in use on this machine: ``'avx2'`` or ``'portable'``."""
    return _C.capability()


def forward(x: Tensor, offset: Tensor) -> Tensor:
    """Sample ``x [B, H, W, C]`` at ``offset [B, H, W, 2 * G]``, giving ``[B, H, W, 2 * C]``."""
    return _C.forward(x, offset)


def backward(grad: Tensor, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` and ``offset``, given that of the samples, ``[B, H, W, 2 * C]``."""
    return _C.backward(grad, x, offset)


def forward_mean(x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Samples, and the mean over all tokens of ``[samples, x]``, ``[B, 3 * C]``."""
    return _C.forward_mean(x, offset)


def backward_mean(
    grad: Tensor, grad_mean: Tensor, x: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` and ``offset``, given those of :func:`forward_mean`'s two results."""
    return _C.backward_mean(grad, grad_mean, x, offset)
