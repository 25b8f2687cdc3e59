"""Access to torchvision's kernels, and to dtypes that every kernel has."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor


def torchvision() -> Any:
    """``torch.ops.torchvision``, loaded at the first call."""
    import_module('torchvision')
    return torch.ops.torchvision


def widen(tensor: Tensor, keep_half: bool = False) -> Tensor:
    """``tensor`` in float32 if it is bfloat16, or float16 unless ``keep_half``; else as it is."""
    narrow = tensor.dtype == torch.bfloat16 or (tensor.dtype == torch.float16 and not keep_half)
    return tensor.float() if narrow else tensor
