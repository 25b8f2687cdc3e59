"""Public face of the sampling operator: argument checks, choice of a backend, registration."""

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..utils.compat import is_transforming
from . import checked, cpp, reference, triton

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def available_backends(device: torch.device | str = 'cpu') -> tuple[str, ...]:
    """Backends that work for tensors on ``device``, the one used by default first.

    ``reference`` is plain PyTorch and always there; ``cpp`` needs the library that ``setup.py``
    compiles; ``triton`` needs a CUDA device, or the environment variable ``TRITON_INTERPRET=1``.
    """
    kind = torch.device(device).type
    compiled = ('cpp',) if kind == 'cpu' and cpp.is_available() else ()
    on_gpu = ('triton',) if kind == 'cuda' and triton.is_available() else ()
    interpreted = kind == 'cpu' and os.environ.get('TRITON_INTERPRET') == '1'
    return (*on_gpu, *compiled, 'reference', *(('triton',) if interpreted else ()))


def active_sample(x: Tensor, offset: Tensor, backend: str | None = None) -> Tensor:
    """Gather, for every token and channel, one value along the width and one along the height.

    With ``g = c // (C / G)`` the group of channel ``c``::

        out[b, h, w, c]     = x[b, h, w + offset[b, h, w, g], c]
        out[b, h, w, C + c] = x[b, h + offset[b, h, w, G + g], w, c]

    read by linear interpolation between the two neighbouring tokens; a neighbour outside the map
    counts as zero. Differentiable in both arguments; at an integral position the gradient of the
    offset is the one from the right.

    Any offset is safe. An infinite one is outside. NaN gives NaN in its own outputs and nowhere
    else, and passes no gradient to ``x``.

    Args:
        x: tokens, ``[B, H, W, C]``, channels last; float64, float32, bfloat16 or float16.
        offset: displacements in tokens, ``[B, H, W, 2 * G]``, of ``x``'s dtype and device: ``G``
            along the width, then ``G`` along the height. ``C`` is a multiple of ``G``.
        backend: one of :func:`available_backends`; None takes the fastest.

    Returns:
        ``[B, H, W, 2 * C]`` in ``x``'s dtype: the samples along the width, then along the height.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: rank, layout, size, dtype or device of an argument does not fit; or the
            backend does not exist or does not work here.

    Source: *Active Token Mixer* (arXiv 2203.06108), section "Active Token Mixer", without the
    full deformable convolution that the published code uses for it.
    """
    backend = _check(x, offset, backend)
    if backend == 'reference':
        return reference.active_sample(x, offset)
    return _sample(x, offset, backend)


def active_sample_mean(
    x: Tensor, offset: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`active_sample`, and the mean over all tokens of ``[samples, x]``, ``[B, 3 * C]``."""
    backend = _check(x, offset, backend)
    if backend == 'reference':
        return reference.active_sample_mean(x, offset)
    return _sample_mean(x, offset, backend)


def _check(x: Tensor, offset: Tensor, backend: str | None) -> str:
    """The backend to use, after checking everything that a caller can get wrong."""
    for name, value in (('x', x), ('offset', offset)):
        if not isinstance(value, Tensor):
            raise TypeError(f'{name} must be a tensor, but is a {type(value).__name__}')
        if value.layout != torch.strided:
            raise ValueError(f'{name} must be dense, but its layout is {value.layout}')
    if x.dim() != 4 or offset.dim() != 4:
        raise ValueError(
            'x must be [B, H, W, C] and offset [B, H, W, 2 * G], '
            f'but x is {list(x.shape)} and offset is {list(offset.shape)}'
        )
    if x.shape[:3] != offset.shape[:3]:
        raise ValueError(
            'x and offset must agree in batch, height and width, '
            f'but x is {list(x.shape)} and offset is {list(offset.shape)}'
        )
    channels, groups = x.shape[3], offset.shape[3] // 2
    if offset.shape[3] % 2 or groups == 0 or channels % groups:
        raise ValueError(
            'offset must have 2 * G channels with G a divisor of the channels of x, '
            f'but offset has {offset.shape[3]} and x has {channels}'
        )
    if x.dtype not in _DTYPES or offset.dtype != x.dtype:
        raise ValueError(
            f'x and offset must share one dtype out of {[str(d) for d in _DTYPES]}, '
            f'but x is {x.dtype} and offset is {offset.dtype}'
        )
    if x.device != offset.device:
        raise ValueError(
            f'x and offset must be on one device, but x is on {x.device} '
            f'and offset on {offset.device}'
        )
    available = available_backends(x.device)
    if backend is None:
        _warn_when_slow(x.device.type)
        return available[0]
    if backend not in available:
        raise ValueError(
            f'backend must be one of {list(available)} for tensors on {x.device}, '
            f'but is {backend!r}'
        )
    return backend


_warned: set[str] = set()


def _warn_when_slow(device: str) -> None:
    """Say once per kind of device that the slow operator serves, unless it was asked for."""
    if device in _warned or os.environ.get('MMATM_BUILD_OPS') == '0':
        return
    if device == 'cpu' and not cpp.is_available():
        reason = (
            f'its fast CPU operator is missing ({cpp.load_error}): install the wheel for this '
            'platform, or a C++ compiler such as g++ and then mmatm again with "pip install '
            '--force-reinstall --no-deps --no-cache-dir mmatm"'
        )
    elif device == 'cuda' and not triton.is_available():
        reason = (
            f'Triton 3 is missing ({triton.load_error}): it comes with torch 2.4 and newer, or by '
            '"pip install triton"'
        )
    else:
        return
    _warned.add(device)
    warnings.warn(f'mmatm runs on its slow reference operator on {device}: {reason}', stacklevel=4)


_MODULES: dict[str, Any] = {'cpp': cpp, 'triton': triton}

# torch.library.custom_op, which would do the same in fewer lines, begins with torch 2.4.
_LIBRARY = torch.library.Library('mmatm', 'DEF')


def _register(schema: str, kernel: Callable, fake: Callable) -> Any:
    """Define an operator of ``torch.ops.mmatm``; ``fake`` gives its results' shapes alone."""
    name = _LIBRARY.define(schema)
    _LIBRARY.impl(name, kernel, 'CompositeExplicitAutograd')
    _LIBRARY.impl(name, fake, 'Meta')
    return getattr(torch.ops.mmatm, name).default


def _run(function: str, *args: Any) -> Any:
    *tensors, backend = args
    return checked.call(_MODULES[backend], function, *tensors)


def _fake(x: Tensor, offset: Tensor, backend: str) -> Tensor:
    return x.new_empty((*x.shape[:3], 2 * x.shape[3]))


def _fake_mean(x: Tensor, offset: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return _fake(x, offset, backend), x.new_empty((x.shape[0], 3 * x.shape[3]))


def _fake_backward(*args: Tensor | str) -> tuple[Tensor, Tensor]:
    x, offset = [a for a in args if isinstance(a, Tensor)][-2:]
    return x.new_empty(x.shape), offset.new_empty(offset.shape)


_forward = _register(
    'active_sample(Tensor x, Tensor offset, str backend) -> Tensor',
    partial(_run, 'forward'),
    _fake,
)
_backward = _register(
    'active_sample_backward(Tensor grad, Tensor x, Tensor offset, str backend) -> (Tensor, Tensor)',
    partial(_run, 'backward'),
    _fake_backward,
)
_forward_mean = _register(
    'active_sample_mean(Tensor x, Tensor offset, str backend) -> (Tensor, Tensor)',
    partial(_run, 'forward_mean'),
    _fake_mean,
)
_backward_mean = _register(
    'active_sample_mean_backward('
    'Tensor grad, Tensor grad_mean, Tensor x, Tensor offset, str backend) -> (Tensor, Tensor)',
    partial(_run, 'backward_mean'),
    _fake_backward,
)


def _differentiable(operator: Any, definition: Callable, backward: Callable | None = None) -> Any:
    """Give ``operator`` its derivatives, also for the transforms of ``torch.func``.

    Args:
        operator: of tensors and a backend, to a tensor or several.
        definition: the same of the tensors alone, in plain PyTorch, which is differentiated
            where ``backward`` is not enough.
        backward: gradients and arguments to the gradients of the tensors; None differentiates
            ``definition``.

    Returns:
        ``operator``, to be called in its place.
    """

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            tensors = [a for a in inputs if isinstance(a, Tensor)]
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)
            ctx.backend = inputs[len(tensors) :]

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            if backward:
                grad_tensors = backward(*grads, *ctx.saved_tensors, *ctx.backend)
            else:
                grad_tensors = reference.pull_back(definition, grads, ctx.saved_tensors)
            return *grad_tensors, *(None for _ in ctx.backend)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
            tensors = ctx.saved_tensors
            return reference.push_forward(definition, tangents[: len(tensors)], tensors)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
            """Images of all batches are independent, so the batches become one."""
            size = info.batch_size
            merged = [
                a if not isinstance(a, Tensor)
                else (a.expand(size, *a.shape) if dim is None else a.movedim(dim, 0)).flatten(0, 1)
                for a, dim in zip(args, in_dims, strict=True)
            ]  # fmt: skip
            results = Differentiable.apply(*merged)
            if isinstance(results, Tensor):
                return results.unflatten(0, (size, len(results) // size)), 0
            split = tuple(r.unflatten(0, (size, len(r) // size)) for r in results)
            return split, (0,) * len(split)

    def call(*args: Any) -> Any:
        # The dispatcher has no rules for the transforms, but an autograd function does.
        return Differentiable.apply(*args) if is_transforming() else operator(*args)

    _LIBRARY.impl(operator.name().partition('::')[2], Differentiable.apply, 'Autograd')
    return call


_sample = _differentiable(
    _forward,
    reference.active_sample,
    _differentiable(_backward, reference.active_sample_backward),
)
_sample_mean = _differentiable(
    _forward_mean,
    reference.active_sample_mean,
    _differentiable(_backward_mean, reference.active_sample_mean_backward),
)
