"""Replacements for functions that older releases of torch, from 2.1 on, do not have.

No other module depends on torch's release. Each function can be replaced by the newer one that it
names.
"""

import codecs
import pickle
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import serialization
from torch.autograd import forward_ad


def is_compiling() -> bool:
    """``torch.compiler.is_compiling`` of torch 2.3."""
    function = getattr(torch.compiler, 'is_compiling', None)
    return bool(function and function())


# Whether Inductor serves all image sizes with one graph. Versions do not compare as strings do.
ORDERS_SYMBOLS = torch.__version__ >= '2.15'


def fix_sizes(*sizes: int) -> None:
    """Compile for these very ``sizes`` where Inductor cannot handle symbolic ones: before 2.15.

    There it fails to order the strides of a map of which two sizes are symbolic.
    """
    # torch.export without Dynamo, its default, is not concerned.
    if (
        not ORDERS_SYMBOLS
        and is_compiling()
        and torch.compiler.is_dynamo_compiling()  # as of torch 2.3, like is_compiling
    ):
        for size in sizes:
            range(size)  # takes no symbols, so that the compiler replaces them


def is_transforming() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is under way."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_cpu_autocast_enabled() -> bool:
    """``torch.is_autocast_enabled('cpu')`` of torch 2.4."""
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:
        return torch.is_autocast_cpu_enabled()


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype of autocast for a kind of device, None if it is off.

    ``torch.is_autocast_enabled(device)`` and ``torch.get_autocast_dtype(device)`` of torch 2.4.
    """
    if device not in ('cpu', 'cuda'):
        return None
    if hasattr(torch, 'get_autocast_dtype'):  # Dynamo cannot trace the older functions
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


@contextmanager
def safe_globals(allowed: Sequence[Any]) -> Iterator[None]:
    """``torch.serialization.safe_globals`` as of torch 2.6.

    Args:
        allowed: what ``torch.load(weights_only=True)`` also accepts in this context: objects, or
            tuples ``(object, 'module.name')``.
    """
    if hasattr(serialization, 'get_unsafe_globals_in_checkpoint'):  # accepts (object, name)
        with serialization.safe_globals(list(allowed)):
            yield
        return
    original: Any = serialization._weights_only_unpickler
    serialization._weights_only_unpickler = _unpickler_with(allowed)
    try:
        yield
    finally:
        serialization._weights_only_unpickler = original


def _unpickler_with(allowed: Sequence[Any]) -> Any:
    """Torch's unpickler of weights, extended by what is ``allowed``."""
    original: Any = serialization._weights_only_unpickler
    known = {'_codecs.encode': codecs.encode, **original._get_allowed_globals()}
    for item in allowed:
        value, name = item if isinstance(item, tuple) else (item, _full_name(item))
        known[name] = value

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            module = IMPORT_MAPPING.get(module, module)  # files use the module names of Python 2
            if f'{module}.{name}' not in known:
                raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {module}.{name}')
            return known[f'{module}.{name}']

    return SimpleNamespace(
        __name__='pickle',
        Unpickler=Unpickler,
        load=lambda file, **options: Unpickler(file, **options).load(),
        _get_allowed_globals=lambda: known,
    )


def _full_name(value: Any) -> str:
    return f'{value.__module__}.{value.__qualname__}'
