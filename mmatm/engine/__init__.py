"""Additions to mmengine: durable checkpoints, exact resuming, checks, and training on CPUs."""

from .amp import CpuAmpOptimWrapper, GpuAmpOptimWrapper
from .check_data import CheckDataHook
from .corrupt import Corrupt
from .durable_checkpoint import DurableCheckpointHook
from .exact_resume import ExactDataset, ExactResumeHook, ExactRunner, ExactSampler
from .finite_loss import FiniteLossHook
from .layer_decay import LayerDecayConstructor

__all__ = [
    'CheckDataHook',
    'Corrupt',
    'CpuAmpOptimWrapper',
    'DurableCheckpointHook',
    'ExactDataset',
    'ExactResumeHook',
    'ExactRunner',
    'ExactSampler',
    'FiniteLossHook',
    'GpuAmpOptimWrapper',
    'LayerDecayConstructor',
]
