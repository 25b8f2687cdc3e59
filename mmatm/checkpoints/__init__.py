"""Checkpoints: tensor names, safe reading, and loading into a model."""

from .fitting import adapt_state_dict
from .names import CheckpointError, published_name, select_names, timm_name, translate_name
from .reading import read_checkpoint, trust_checkpoints

__all__ = [
    'CheckpointError',
    'adapt_state_dict',
    'published_name',
    'read_checkpoint',
    'select_names',
    'timm_name',
    'translate_name',
    'trust_checkpoints',
]
