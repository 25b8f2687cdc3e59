"""The registries of mmengine's scope ``mmatm``, for configs inherited as ``mmatm::...``.

mmengine assigns everything that a config inherits from ``_base_ = 'mmatm::...'`` to the scope
``mmatm``, and imports that scope's registries from here. ATMNet's configs use classes of mmdet,
mmseg and mmpretrain, so these registries search the registries of the config's default scope.
"""

import difflib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import mmengine.registry
from mmengine.registry import DefaultScope, Registry

SCOPE = 'mmatm'
_TASKS = ('mmdet', 'mmseg', 'mmpretrain')


class _TaskRegistry(Registry):
    """A registry without content that searches the registries of the task's package."""

    def get(self, key: str) -> Any:
        """Return the class or function named ``key``, or None."""
        for scope in _scopes():
            registry = self.parent._search_child(scope)
            if registry is not None and (found := registry.get(key)) is not None:
                return found
        return self.parent.get(key)


def _scopes() -> Iterator[str]:
    """The default scopes that were set, newest first, then all installed packages for a task."""
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


def similar_names(name: str, registry: str, scope: str) -> list[str]:
    """The three names in a registry that are most similar to ``name``; none if it is not mm's.

    Args:
        name: of a class or function.
        registry: name of the registry, e.g. ``model``.
        scope: whose registry it is, e.g. ``mmdet``.
    """
    names: dict[str, type] = {}
    for root in (ours.parent for ours in _REGISTRIES if ours.name == registry):
        child = root.children.get(next(_scopes()) if scope == SCOPE else scope, root)
        names |= {**root.module_dict, **child.module_dict}
    return difflib.get_close_matches(name, names, 3, cutoff=0)
