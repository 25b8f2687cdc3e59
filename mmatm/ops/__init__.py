"""The sampling operator of the active token mixer, independent of the models."""

from .sampling import active_sample, active_sample_mean, available_backends

__all__ = ['active_sample', 'active_sample_mean', 'available_backends']
