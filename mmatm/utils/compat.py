"""What old releases of torch, from 2.1 on, lack: the one place that knows of releases.

Each function does what the newer one it names does, and can give way to it.
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


def is_compiling() -> bool:
    """``torch.compiler.is_compiling`` of torch 2.3."""
    function = getattr(torch.compiler, 'is_compiling', None)
    return bool(function and function())


def is_cpu_autocast_enabled() -> bool:
    """``torch.is_autocast_enabled('cpu')`` of torch 2.4."""
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:
        return torch.is_autocast_cpu_enabled()


@contextmanager
def safe_globals(allowed: Sequence[Any]) -> Iterator[None]:
    """``torch.serialization.safe_globals`` as of torch 2.6.

    Args:
        allowed: what ``torch.load(weights_only=True)`` accepts within, besides what it does anyway:
            objects, or ``(object, 'module.name')``.
    """
    if hasattr(serialization, 'get_unsafe_globals_in_checkpoint'):  # (object, name) is understood
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
    """Torch's unpickler of weights, for pickles that also refer to what is ``allowed``."""
    original: Any = serialization._weights_only_unpickler
    known = {'_codecs.encode': codecs.encode, **original._get_allowed_globals()}
    for item in allowed:
        value, name = item if isinstance(item, tuple) else (item, _full_name(item))
        known[name] = value

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            module = IMPORT_MAPPING.get(module, module)  # files name modules as Python 2 did
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
