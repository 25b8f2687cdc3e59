from .amp import CpuAmpOptimWrapper
from .checkpoints import DurableCheckpointHook
from .data import CheckDataHook
from .hooks import FiniteLossHook
from .layer_decay import LayerDecayConstructor
from .optimizer import FusedAdamW

__all__ = [
    'CheckDataHook',
    'CpuAmpOptimWrapper',
    'DurableCheckpointHook',
    'FiniteLossHook',
    'FusedAdamW',
    'LayerDecayConstructor',
]
