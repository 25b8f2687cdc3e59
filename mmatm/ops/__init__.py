"""The sampling step of the active token mixer; knows nothing of models."""

from .sampling import active_sample, active_sample_mean, available_backends

__all__ = ['active_sample', 'active_sample_mean', 'available_backends']
