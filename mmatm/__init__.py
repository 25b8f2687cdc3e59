"""ATMNet (Active Token Mixer, AAAI 2023) as a backbone for OpenMMLab.

``import mmatm`` registers ``ATMNet`` and what helps to train it in mmengine's root registries, so
mmdet's and mmseg's configs find them by name. It needs torch, timm, mmengine and numpy; mmdet and
mmseg are only needed by the configs that use them.
"""

from importlib.util import find_spec

from .version import __version__

if find_spec('mmengine') is None:
    raise ImportError(
        "mmatm needs the package 'mmengine', which is not installed: get it with "
        '"pip install \'onedl-mmengine>=0.10.12\'" (maintained, any torch) or '
        "\"pip install 'mmengine>=0.10.7'\" (OpenMMLab's last release, torch < 2.6); never both."
    )

from . import engine, models, ops

__all__ = ['__version__', 'engine', 'models', 'ops']
