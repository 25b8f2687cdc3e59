"""Registers everything that mmengine, mmdet, mmseg and mmpretrain look up by name."""

from collections.abc import Iterator

from mmengine.config import utils
from mmengine.infer import BaseInferencer

from . import data, engine, registry
from .checkpoints import loading
from .models import atmnet
from .packaged import model_names

__all__ = ['atmnet', 'data', 'engine', 'loading', 'registry']

# Lets configs inherit from 'mmatm::detection/mask_rcnn_atmnet_t.py', and mmengine.hub find them.
utils.MODULE2PACKAGE.setdefault(registry.SCOPE, registry.SCOPE)

_models_of = BaseInferencer._get_models_from_metafile


def _models_with_ours(dir: str) -> Iterator[dict]:
    """Models that mmengine's inferencers know by name: those of ``dir``, then those of mmatm."""
    yield from _models_of(dir)
    for name, config in model_names().items():
        yield {'Name': name, 'Config': str(config), 'Weights': None}


BaseInferencer._get_models_from_metafile = staticmethod(_models_with_ours)
