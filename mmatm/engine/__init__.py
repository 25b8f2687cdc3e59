from .amp import CpuAmpOptimWrapper
from .data import CheckDataHook
from .hooks import FiniteLossHook
from .layer_decay import LayerDecayConstructor

__all__ = ['CheckDataHook', 'CpuAmpOptimWrapper', 'FiniteLossHook', 'LayerDecayConstructor']
