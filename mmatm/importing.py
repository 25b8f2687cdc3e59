"""Registration of mmatm's names when torch, timm or mmengine are imported.

``import mmatm`` itself imports none of them. Users of the timm models need no mmengine, and
``mmatm --help`` and ``mmatm env`` are fast and work in broken environments.
"""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType
from typing import Any

# An imported package, and the module of mmatm that registers names with it.
_REGISTERING = {'torch': 'mmatm.ops', 'timm': 'mmatm.models', 'mmengine': 'mmatm.mm'}


def install() -> None:
    """Register with packages that are imported already, and with others when they are."""
    sys.meta_path.insert(0, _Registration())
    sys.meta_path.append(_Operators())
    for name, module in _REGISTERING.items():
        if sys.modules.get(name) is not None:
            with _explained():
                import_module(module)


@contextmanager
def _explained() -> Iterator[None]:
    """Add the cause and the remedy to an import error, if they are known."""
    try:
        yield
    except Exception as error:  # a broken environment can raise anything
        from .utils.environment import explain

        if cause := explain(error):
            raise ImportError(f'{cause}; "mmatm env" prints the environment') from error
        raise


class _Registration(MetaPathFinder):
    """Register with packages after they are imported; find them as usual.

    If a module of mmatm imports such a package, that module finishes first, because registering may
    need it.
    """

    def __init__(self) -> None:
        self._searching: set[str] = set()
        self._pending = dict(_REGISTERING)
        self._due: list[str] = []  # modules of mmatm to import
        self._depth = 0  # number of modules of mmatm that are being imported

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        ours = name.startswith('mmatm.')
        if name in self._searching or not (ours or name in self._pending):
            return None
        self._searching.add(name)
        try:
            spec = find_spec(name)
        finally:
            self._searching.remove(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader  # used only by this search
            loader.exec_module = self._then(loader.exec_module, name, ours)
        return spec

    def _then(self, execute: Callable, name: str, ours: bool) -> Callable:
        @wraps(execute)
        def exec_module(imported: ModuleType) -> None:
            self._depth += ours
            # A twelfth of the time to import torch and mm is garbage collection that finds nothing.
            collects = gc.isenabled()
            gc.disable()
            try:
                with nullcontext() if ours else _explained():
                    execute(imported)
            finally:
                self._depth -= ours
                if collects:
                    gc.enable()
            if not ours and name in self._pending:
                self._due.append(self._pending.pop(name))
            while self._due and not self._depth:
                with _explained():
                    import_module(self._due.pop(0))

        return exec_module


class _Operators(MetaPathFinder, Loader):
    """Find ``mmcv._ext`` if no other finder does, which means mmcv has no compiled operators."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name == 'mmcv._ext' else None

    def exec_module(self, module: ModuleType) -> None:
        from .mmcv_ext import __getattr__

        module.__getattr__ = __getattr__  # type: ignore[method-assign]
