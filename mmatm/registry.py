"""mmengine's scope ``mmatm``, in which configs inherited as ``mmatm::...`` are built.

mmengine marks what a config takes from ``_base_ = 'mmatm::...'`` with the scope ``mmatm`` and looks
for it in that scope's registries, which it imports from here. ATMNet's configs name classes of
mmdet, mmseg and mmpretrain, so these registries search those of the config's default scope.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import mmengine.registry
from mmengine.registry import DefaultScope, Registry

SCOPE = 'mmatm'
_TASKS = ('mmdet', 'mmseg', 'mmpretrain')


class _TaskRegistry(Registry):
    """Finds nothing of its own, but all that the registry of the task's package finds."""

    def get(self, key: str) -> Any:
        """The class or function that ``key`` names; None if there is none."""
        for scope in _scopes():
            registry = self.parent._search_child(scope)
            if registry is not None and (found := registry.get(key)) is not None:
                return found
        return self.parent.get(key)


def _scopes() -> Iterator[str]:
    """The default scopes that were set, the newest first, then every task that is installed."""
    default = [instance.scope_name for instance in DefaultScope._instance_dict.values()]
    for scope in dict.fromkeys((*reversed(default), *_TASKS)):
        if scope in _TASKS and find_spec(scope):
            import_module(f'{scope}.registry')
            yield scope


_REGISTRIES = [
    _TaskRegistry(root.name, parent=root, scope=SCOPE)
    for root in vars(mmengine.registry).values()
    if isinstance(root, Registry)
]
