"""ATMNet (Active Token Mixer, AAAI 2023) as a backbone for OpenMMLab and timm.

``import mmatm`` registers ATMNet with torch, timm and mmengine, each when the program imports it.
Where mmcv has no compiled operators, it supplies them. It does nothing else. See
:mod:`mmatm.importing` for how it works.
"""

from importlib import import_module
from typing import Any

from . import importing
from .version import __version__

__all__ = ['Predictor', '__version__']

importing.install()


def __getattr__(name: str) -> Any:
    if name == 'Predictor':
        return import_module('.inference', __name__).Predictor
    if name in ('checkpoints', 'data', 'engine', 'inference', 'mmcv_ext', 'models', 'ops', 'utils'):
        return import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
