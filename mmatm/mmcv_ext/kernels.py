"""Access to torchvision's kernels, and dtypes and threads for every kernel."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def in_threads(kernel: Callable[[Tensor], Tensor], tensor: Tensor, dim: int) -> Tensor:
    """Apply a kernel that uses one thread to parts of a tensor in parallel.

    Args:
        kernel: maps a part of ``tensor`` to the same part of the result.
        tensor: what is split along ``dim`` into a part per thread of torch.
        dim: the dimension, of both.
    """
    threads = torch.get_num_threads() if tensor.device.type == 'cpu' else 1
    parts = tensor.chunk(threads, dim)
    if len(parts) < 2 or torch.compiler.is_compiling():
        return kernel(tensor)
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(torch.no_grad()(kernel), parts)), dim)
