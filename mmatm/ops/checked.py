"""Kernels that are compared with plain PyTorch when they are first used, and replaced if wrong.

A compiler or a driver can break a kernel without an error, on devices that no test has seen. So the
first call of a kernel for a device, a dtype and a number of channels runs a small problem with the
same number of channels through the kernel and through its definition in plain PyTorch. If the two
differ, or the kernel fails, a warning says so, and the definition serves from then on. That takes a
few milliseconds. ``MMATM_CHECK=0`` in the environment leaves it out.
"""

import os
import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from . import reference

DEFINITIONS: dict[str, Callable] = {
    'forward': reference.active_sample,
    'forward_mean': reference.active_sample_mean,
    'backward': reference.active_sample_backward,
    'backward_mean': reference.active_sample_mean_backward,
}
# Relative to the greatest value. Half types are rounded once, at the end, on both sides.
TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 2**-9,
    torch.bfloat16: 2**-6,
}
_SIZE = 2, 3, 10  # images, rows, columns: several tiles of a kernel, none of them full

_works: dict[Hashable, bool] = {}


def call(module: Any, function: str, *tensors: Tensor) -> Any:
    """Call ``function`` of a backend, or its definition if the backend computes something else.

    Args:
        module: A backend, such as :mod:`mmatm.ops.cpp`.
        function: A key of :data:`DEFINITIONS`.
        tensors: Its arguments. The last two are ``x [B, H, W, C]`` and ``offset [B, H, W, 2 * G]``.
    """
    x, offset = tensors[-2:]
    key = module, function, x.device, x.dtype, offset.dtype, x.shape[3:], offset.shape[3:]
    works = _works.get(key)
    if works is None:
        works = True
        if os.environ.get('MMATM_CHECK') != '0' and _can_check(x, offset):
            works = _works[key] = _check(module, function, x, offset)
    return (getattr(module, function) if works else DEFINITIONS[function])(*tensors)


def _can_check(x: Tensor, offset: Tensor) -> bool:
    if not x.numel() or x.dim() != 4 or offset.dim() != 4 or x.dtype not in TOLERANCES:
        return False  # nothing to compute, or arguments that the kernel rejects
    groups, odd = divmod(offset.shape[3], 2)
    if odd or not groups or x.shape[3] % groups:
        return False
    # A CUDA graph that is being captured admits no other work.
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def _check(module: Any, function: str, x: Tensor, offset: Tensor) -> bool:
    """Whether a kernel agrees with its definition; if not, warn."""
    # A new thread has no autocast, no transform and no mode, whatever the caller is in.
    with ThreadPoolExecutor(1) as pool:
        fault = pool.submit(find_fault, module, function, x, offset).result()
    if fault:
        name = module.__name__.rpartition('.')[2]
        warnings.warn(
            f'mmatm runs on its slow reference operator on {x.device}, because {function} of its '
            f'{name} kernels {fault} ({x.dtype}, {x.shape[3]} channels, {offset.shape[3] // 2} '
            'offsets per axis). Please report it with the output of "mmatm env"',
            stacklevel=5,
        )
    return not fault


def find_fault(
    module: Any, function: str, x: Tensor, offset: Tensor, size: tuple[int, int, int] = _SIZE
) -> str:
    """What is wrong with a kernel, in words; an empty string if nothing is.

    Args:
        module: A backend, such as :mod:`mmatm.ops.cpp`.
        function: A key of :data:`DEFINITIONS`.
        x: A tensor ``[..., C]`` that gives channels, dtype and device.
        offset: A tensor ``[..., 2 * G]``, likewise.
        size: ``B, H, W`` of the problem.

    Raises:
        MemoryError, torch.cuda.OutOfMemoryError: too little memory is left to tell.
    """
    inputs = _problem(function, x, offset, size)
    expected = _define(function, *inputs)
    try:
        found = getattr(module, function)(*(i.to(x.device) for i in inputs))
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise  # there is no fault in the kernel
    except Exception as error:  # such as a compiler's
        if 'out of memory' in str(error):  # the driver's, where it loads a kernel
            raise torch.cuda.OutOfMemoryError(str(error)) from error
        return f'fails with {type(error).__name__}: {" ".join(str(error).split())[:300]}'
    for result, wanted in zip(_tuple(found), expected, strict=True):
        if result.shape != wanted.shape or result.dtype != wanted.dtype:
            return f'gives {list(result.shape)} of {result.dtype}'
        difference = (result.cpu().double() - wanted.double()).abs().max().item()
        most = wanted.abs().max().item()
        if not difference <= TOLERANCES[x.dtype] * most:  # NaN too
            return f'differs from plain PyTorch by {difference:.3g} where values reach {most:.3g}'
    return ''


def _problem(
    function: str, x: Tensor, offset: Tensor, size: tuple[int, int, int]
) -> tuple[Tensor, ...]:
    """Random arguments of ``function``; some sampling positions are far outside or infinite."""
    generator = torch.Generator().manual_seed(0)  # the program's own stay as they are
    channels, offsets = x.shape[-1], offset.shape[-1]

    def draw(*shape: int, scale: float = 1, dtype: torch.dtype = x.dtype) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(dtype)

    inputs = (draw(*size, channels), draw(*size, offsets, scale=3, dtype=offset.dtype))
    inputs[1].view(-1)[::11] = 3e4
    inputs[1].view(-1)[::17] = -float('inf')
    if function.startswith('forward'):
        return inputs
    means = [draw(size[0], 3 * channels)] if function == 'backward_mean' else []
    return draw(*size, 2 * channels), *means, *inputs


def _define(function: str, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The results of plain PyTorch on the CPU.

    On another device, autograd might wait for the very backward pass that this is part of.
    """
    if function.startswith('forward'):
        return _tuple(DEFINITIONS[function](*inputs))
    *grads, x, offset = inputs
    leaves = [t.detach().requires_grad_() for t in (x, offset)]
    results = _tuple(DEFINITIONS[function.replace('backward', 'forward')](*leaves))
    # A scalar, because torch imports SymPy, a second's work, to compare given gradients' shapes.
    total = torch.stack([(r * g).sum() for r, g in zip(results, grads, strict=True)]).sum()
    return torch.autograd.grad(total, leaves)


def _tuple(results: Any) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else tuple(results)
