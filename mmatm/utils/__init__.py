"""Utilities: files, messages, older releases of torch, description of the environment."""

from .environment import collect_env, find_problems

__all__ = ['collect_env', 'find_problems', 'register_all_modules']


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register with mmengine; ``mmengine.hub`` calls this function of every package.

    Args:
        init_default_scope: has no effect, because ATMNet's configs set the scope that they need.
    """
    from .. import mm  # noqa: F401
