"""A model with its weights and class names, from a config and a checkpoint."""

from typing import Any

from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from ..checkpoints.loading import load_whole_model
from ..data import first_test_set
from . import ExportError
from .models import Deployed


def build(cfg: Any, checkpoint: str) -> tuple[Any, dict]:
    """The model of a config with all its weights, and the ``meta`` of the checkpoint.

    Raises:
        CheckpointError: the file cannot be read, or lacks weights.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    meta = load_whole_model(model, checkpoint).get('meta')
    return model.eval(), meta if isinstance(meta, dict) else {}


def class_names(cfg: Any, model: Deployed, meta: dict) -> dict[str, Any]:
    """``classes`` and ``palette``, as :func:`known_classes` finds them.

    Raises:
        ExportError: they are unknown, or not as many as the model has.
    """
    classes, palette = known_classes(cfg, meta)
    count = count_classes(model.model)
    if len(classes) != count:
        raise ExportError(
            f'the model has {count} classes, but {len(classes)} names are known: set '
            'test_dataloader.dataset.metainfo.classes'
        )
    return dict(classes=classes, palette=palette)


def known_classes(cfg: Any, meta: dict) -> tuple[list[str], list | None]:
    """Class names and a palette, from the checkpoint or else the test set's description.

    The names are empty if they are unknown, the palette is None if it lacks a class.
    """
    dataset = first_test_set(cfg)
    known = [meta.get('dataset_meta') or {}, dataset.get('metainfo') or {}]
    with DATASETS.switch_scope_and_registry(None) as registry:
        kind = dataset.get('type')
        kind = registry.get(kind) if isinstance(kind, str) else kind
    known.append(getattr(kind, 'METAINFO', {}))
    found = next((k for k in known if k.get('classes') or k.get('CLASSES')), {})
    classes = list(found.get('classes') or found.get('CLASSES') or [])
    palette: Any = found.get('palette', found.get('PALETTE'))
    if not isinstance(palette, (list, tuple)) or len(palette) < len(classes):
        palette = None
    return classes, palette


def count_classes(model: Any) -> int | None:
    """How many classes the head of a model tells apart, None if it does not say."""
    if hasattr(model, 'panoptic_fusion_head'):  # other heads know a part of the classes
        return None
    owner = getattr(model, 'roi_head', model)
    names = 'head', 'decode_head', 'bbox_head'
    head: Any = next((getattr(owner, name) for name in names if hasattr(owner, name)), None)
    return getattr(head[-1] if isinstance(head, nn.ModuleList) else head, 'num_classes', None)
