"""Where each token looks: what ATMNet samples, and how much it weighs, for one image."""

from .capture import Block, Capture, LookError, capture

__all__ = ['Block', 'Capture', 'LookError', 'capture']
