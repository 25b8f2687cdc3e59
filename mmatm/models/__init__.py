"""The token mixer, the trunk, and ATMNet for OpenMMLab and timm."""

from typing import Any

from .atmnet_timm import ATMNetClassifier
from .mixer import ActiveTokenMixer
from .trunk import ARCHS, Trunk

__all__ = ['ARCHS', 'ATMNet', 'ATMNetClassifier', 'ActiveTokenMixer', 'Trunk']


def __getattr__(name: str) -> Any:
    if name == 'ATMNet':  # needs mmengine, which may not be installed
        from .atmnet import ATMNet

        return ATMNet
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
