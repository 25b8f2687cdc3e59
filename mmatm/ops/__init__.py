"""The sampling step of the active token mixer; knows nothing of models."""

from .active_sample import active_sample

__all__ = ['active_sample']
