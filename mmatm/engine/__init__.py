from .amp import CpuAmpOptimWrapper
from .hooks import FiniteLossHook
from .layer_decay import LayerDecayConstructor

__all__ = ['CpuAmpOptimWrapper', 'FiniteLossHook', 'LayerDecayConstructor']
