"""What ``import mmatm`` adds to a program: names, when torch, timm or mmengine are imported.

Nothing heavy is imported early, so that users of the timm models need no mmengine, and
``mmatm --help`` and ``mmatm env`` answer at once and in broken environments too.
"""

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

# The package that is imported, and the module of ours that registers with it.
_REGISTERING = {'torch': 'mmatm.ops', 'timm': 'mmatm.models', 'mmengine': 'mmatm.mm'}


def install() -> None:
    """Register with what is imported already, and prepare for what comes later."""
    sys.meta_path.insert(0, _Registration())
    sys.meta_path.append(_Operators())
    for name, module in _REGISTERING.items():
        if sys.modules.get(name) is not None:
            with _explained():
                import_module(module)


@contextmanager
def _explained() -> Iterator[None]:
    """Gives an import that has failed its cause and remedy, where they are known."""
    try:
        yield
    except Exception as error:  # whatever a broken environment fails with
        from .utils.environment import explain

        if cause := explain(error):
            raise ImportError(f'{cause}; "mmatm env" prints the environment') from error
        raise


class _Registration(MetaPathFinder):
    """Finds packages as without it, and registers with them once they are imported.

    A module of ours that imports such a package is finished first, so that it can take part.
    """

    def __init__(self) -> None:
        self._searching: set[str] = set()
        self._pending = dict(_REGISTERING)
        self._due: list[str] = []  # modules of ours to import
        self._depth = 0  # of modules of ours that are being imported

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
            loader: Any = spec.loader  # of this search alone
            loader.exec_module = self._then(loader.exec_module, name, ours)
        return spec

    def _then(self, execute: Callable, name: str, ours: bool) -> Callable:
        @wraps(execute)
        def exec_module(imported: ModuleType) -> None:
            self._depth += ours
            try:
                with nullcontext() if ours else _explained():
                    execute(imported)
            finally:
                self._depth -= ours
            if not ours and name in self._pending:
                self._due.append(self._pending.pop(name))
            while self._due and not self._depth:
                with _explained():
                    import_module(self._due.pop(0))

        return exec_module


class _Operators(MetaPathFinder, Loader):
    """Finds ``mmcv._ext`` where no other finder does: where mmcv has no compiled operators."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name == 'mmcv._ext' else None

    def exec_module(self, module: ModuleType) -> None:
        from .mmcv_ext import __getattr__

        module.__getattr__ = __getattr__  # type: ignore[method-assign]
