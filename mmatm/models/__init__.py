"""The token mixer, the trunk built from it, and its face towards OpenMMLab."""

from .atmnet import ATMNet
from .checkpoint import CheckpointError, read_checkpoint, trust_checkpoints
from .mixer import ActiveTokenMixer
from .trunk import ARCHS, Trunk

__all__ = [
    'ARCHS',
    'ATMNet',
    'ActiveTokenMixer',
    'CheckpointError',
    'Trunk',
    'read_checkpoint',
    'trust_checkpoints',
]
