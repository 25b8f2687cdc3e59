"""The token mixer, the trunk built from it, and its faces towards OpenMMLab and timm."""

from .atmnet import ATMNet
from .checkpoint import CheckpointError, read_checkpoint, trust_checkpoints
from .classifier import ATMNetClassifier
from .mixer import ActiveTokenMixer
from .trunk import ARCHS, Trunk

__all__ = [
    'ARCHS',
    'ATMNet',
    'ATMNetClassifier',
    'ActiveTokenMixer',
    'CheckpointError',
    'Trunk',
    'read_checkpoint',
    'trust_checkpoints',
]
