"""C++ backend of the sampling operator, for CPU tensors.

``setup.py`` compiles ``csrc/`` to ``_kernels.so``. The library uses neither Python nor torch, so it
works with every release of both. It runs on torch's OpenMP threads. Results are bitwise identical
in every run and for any number of threads.
"""

import ctypes
from ctypes import c_bool, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ABI = 1  # returned by mmatm_abi() in csrc/active_sample.cpp
_DTYPES = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
_MOST = 2**30 - 1  # for 32-bit positions
_OPENMP = ('GOMP_parallel', 'omp_in_parallel', 'omp_get_num_threads', 'omp_get_thread_num')


def _load(file: Path) -> ctypes.CDLL:
    """Load the library ``file``; OSError if it cannot be used."""
    library: Any = ctypes.CDLL(str(file))
    abi = library.mmatm_abi() if hasattr(library, 'mmatm_abi') else 'none'
    if abi != _ABI:
        raise OSError(
            f'{file.name} belongs to another version of mmatm: its interface is {abi}, but must '
            f'be {_ABI}; install mmatm again'
        )
    sizes = [c_int, c_int, *[c_int64] * 5]
    library.mmatm_forward.argtypes = [*sizes, *[c_void_p] * 4]
    library.mmatm_backward.argtypes = [*sizes, *[c_void_p] * 6]
    for function in (library.mmatm_forward, library.mmatm_backward):
        function.restype = c_bool
        function.errcheck = _raise_without_memory
    library.mmatm_capability.restype = c_char_p
    return library


def _raise_without_memory(enough: bool, *_: Any) -> None:
    if not enough:
        raise MemoryError('not enough memory for the sums that the operator keeps while it runs')


def _find_openmp() -> ctypes.CDLL | None:
    """Return a library through which torch's OpenMP runtime is found; None if torch has none.

    Symbols are searched as the system did when it linked torch: first in the global scope of the
    process, then in the dependencies of torch. This finds torch's own runtime, whatever its name,
    even if several are loaded.
    """
    if not torch.backends.openmp.is_available():
        return None
    for file in (None, torch._C.__file__):
        library = ctypes.CDLL(file)
        if all(hasattr(library, name) for name in _OPENMP):
            return library
    return None


_library: Any = None
_openmp: Any = None
load_error = ''  # why the library is not available
try:
    _library = _load(Path(__file__).with_name('_kernels.so'))
except OSError as error:
    load_error = str(error)
else:
    _openmp = _find_openmp()
if _openmp:
    _library.mmatm_use_openmp(*(ctypes.cast(getattr(_openmp, name), c_void_p) for name in _OPENMP))


def is_available() -> bool:
    """Whether the library is built and loads."""
    return _library is not None


def capability() -> str:
    """The instruction set in use: ``'avx2'`` or ``'portable'``."""
    return _library.mmatm_capability().decode()


def threading() -> str:
    """The threads in use, e.g. ``'OpenMP of torch (libgomp.so.1)'`` or ``'one thread'``."""
    if _openmp is None:
        return 'one thread'

    class Symbol(ctypes.Structure):
        _fields_ = (
            ('file', c_char_p),
            ('base', c_void_p),
            ('name', c_char_p),
            ('address', c_void_p),
        )

    symbol = Symbol()
    ctypes.CDLL(None).dladdr(ctypes.cast(_openmp.GOMP_parallel, c_void_p), ctypes.byref(symbol))
    return f'OpenMP of torch ({Path(symbol.file.decode()).name})'


def forward(x: Tensor, offset: Tensor) -> Tensor:
    """Sample ``x [B, H, W, C]`` at ``offset [B, H, W, 2 * G]``; returns ``[B, H, W, 2 * C]``."""
    return _forward(x, offset, with_mean=False)[0]


def forward_mean(x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return the samples, and the mean of ``[samples, x]`` over all tokens, ``[B, 3 * C]``."""
    return _forward(x, offset, with_mean=True)


def backward(grad: Tensor, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and ``offset``, given that of the samples."""
    return _backward(grad, None, x, offset)


def backward_mean(
    grad: Tensor, grad_mean: Tensor, x: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and ``offset``, given those of :func:`forward_mean`."""
    return _backward(grad, grad_mean, x, offset)


def _forward(x: Tensor, offset: Tensor, with_mean: bool) -> Any:
    sizes = batch, height, width, channels, _ = _sizes(x, offset)
    x, offset = x.contiguous(), offset.contiguous()
    samples = x.new_empty(batch, height, width, 2 * channels)
    mean = x.new_empty(batch, 3 * channels) if with_mean else None
    _library.mmatm_forward(
        _DTYPES[x.dtype],
        torch.get_num_threads(),
        *sizes,
        x.data_ptr(),
        offset.data_ptr(),
        samples.data_ptr(),
        None if mean is None else mean.data_ptr(),
    )
    return samples, mean


def _backward(
    grad: Tensor, grad_mean: Tensor | None, x: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    sizes = batch, height, width, channels, _ = _sizes(x, offset)
    _check_like('grad_samples', grad, (batch, height, width, 2 * channels), x.dtype)
    if grad_mean is not None:
        _check_like('grad_mean', grad_mean, (batch, 3 * channels), x.dtype)
        grad_mean = grad_mean.contiguous()
    grad, x, offset = grad.contiguous(), x.contiguous(), offset.contiguous()
    grad_x, grad_offset = torch.empty_like(x), torch.empty_like(offset)
    _library.mmatm_backward(
        _DTYPES[x.dtype],
        torch.get_num_threads(),
        *sizes,
        grad.data_ptr(),
        None if grad_mean is None else grad_mean.data_ptr(),
        x.data_ptr(),
        offset.data_ptr(),
        grad_x.data_ptr(),
        grad_offset.data_ptr(),
    )
    return grad_x, grad_offset


def _sizes(x: Tensor, offset: Tensor) -> tuple[int, ...]:
    """Return ``B, H, W, C, G`` after checking the tensors."""
    if x.dim() != 4 or offset.dim() != 4:
        raise ValueError(
            'x and offset must have 4 dimensions, '
            f'but x is {list(x.shape)} and offset is {list(offset.shape)}'
        )
    batch, height, width, channels = x.shape
    *tokens, offsets = offset.shape
    if tokens != [batch, height, width]:
        raise ValueError(
            'x and offset must agree in batch, height and width, '
            f'but x is {list(x.shape)} and offset is {list(offset.shape)}'
        )
    groups, odd = divmod(offsets, 2)
    if odd or groups == 0 or channels % groups:
        raise ValueError(
            'offset must have 2 * G channels with G a divisor of the channels of x, '
            f'but offset has {offsets} and x has {channels}'
        )
    if x.dtype != offset.dtype or not (x.is_cpu and offset.is_cpu):
        raise ValueError(
            'x and offset must share one dtype and be on the CPU, but x is '
            f'{x.dtype} on {x.device} and offset is {offset.dtype} on {offset.device}'
        )
    if x.dtype not in _DTYPES:
        raise ValueError(f'x must be floating point, but it is {x.dtype}')
    if max(height, width, width * channels) > _MOST:
        raise ValueError(f'x is too large for 32-bit positions in a row: {list(x.shape)}')
    return batch, height, width, channels, groups


def _check_like(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_cpu:
        raise ValueError(
            f'{name} must be {list(shape)} of {dtype} on the CPU, '
            f'but it is {list(tensor.shape)} of {tensor.dtype} on {tensor.device}'
        )
