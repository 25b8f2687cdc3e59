"""Access to torchvision's kernels, and dtypes that every kernel supports."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor


def torchvision() -> Any:
    """``torch.ops.torchvision``, loaded at the first call."""
    import_module('torchvision')
    return torch.ops.torchvision


def widen(tensor: Tensor, keep_half: bool = False) -> Tensor:
    """Convert bfloat16, and float16 unless ``keep_half``, to float32."""
    narrow = tensor.dtype == torch.bfloat16 or (tensor.dtype == torch.float16 and not keep_half)
    return tensor.float() if narrow else tensor
