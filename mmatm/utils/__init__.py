"""What describes the environment: for bug reports, and to recognise one that cannot work."""

from .environment import collect_env, find_problems

__all__ = ['collect_env', 'find_problems']
