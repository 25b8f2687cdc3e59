"""What everything else uses: files, messages, older torch, and the environment's description."""

from .environment import collect_env, find_problems

__all__ = ['collect_env', 'find_problems', 'register_all_modules']


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register with mmengine, as ``mmengine.hub`` asks of every package.

    Args:
        init_default_scope: has no effect, since ATMNet's configs set the scope that they need.
    """
    from .. import mm  # noqa: F401
