from .amp import CpuAmpOptimWrapper
from .checkpoints import DurableCheckpointHook
from .hooks import FiniteLossHook
from .layer_decay import LayerDecayConstructor

__all__ = [
    'CpuAmpOptimWrapper',
    'DurableCheckpointHook',
    'FiniteLossHook',
    'LayerDecayConstructor',
]
