"""What ``import mmatm`` adds to a program: names, when torch, timm or mmengine are imported.

Nothing heavy is imported early, so that users of the timm models need no mmengine, and
``mmatm --help`` and ``mmatm env`` answer at once and in broken environments too.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    """Finds packages as without it, and registers with them once they are imported."""

    def __init__(self) -> None:
        self._pending = dict(_REGISTERING)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = self._pending.pop(name, None)  # the search below must not come back here
        if module is None:
            return None
        try:
            spec = find_spec(name)
        finally:
            self._pending[name] = module
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader  # of this search alone
            loader.exec_module = self._then(loader.exec_module, name, module)
        return spec

    def _then(self, execute: Callable, name: str, module: str) -> Callable:
        @wraps(execute)
        def exec_module(imported: ModuleType) -> None:
            with _explained():
                execute(imported)
                if self._pending.pop(name, None):
                    import_module(module)

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
