"""Models of configs with random weights, and random batches that each of their heads takes."""

import copy
import io
import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from torch import Tensor, nn

OBJECTS = 8  # per image; COCO has 7.3 on average


def build(cfg: Config) -> nn.Module:
    """The model of a config, initialized, with BatchNorm in place of SyncBatchNorm."""
    torch.manual_seed(0)
    settings = copy.deepcopy(cfg.model)  # some models change theirs
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), quiet():
        model: Any = revert_sync_batchnorm(MODELS.build(settings))
        model.init_weights()
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Keep mm from logging and printing the name of every parameter."""
    logging.disable(logging.INFO)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def start_from_random(settings: Any) -> None:
    """Remove everything in a model's settings that loads or downloads weights, in place."""
    if isinstance(settings, MutableMapping):
        init = settings.get('init_cfg')
        if isinstance(init, MutableMapping) and init.get('type') == 'Pretrained':
            settings['init_cfg'] = None
        if isinstance(settings.get('pretrained'), str):
            settings['pretrained'] = None
        for value in settings.values():
            start_from_random(value)
    elif isinstance(settings, (list, tuple)):
        for value in settings:
            start_from_random(value)


def set_shape(model: MutableMapping, height: int, width: int) -> None:
    """Make the settings of a model pad its images to ``height x width``, in place."""
    preprocessor = model.get('data_preprocessor') or {}
    if preprocessor.get('size') is not None:
        preprocessor['size'] = (height, width)
    for augment in preprocessor.get('batch_augments') or []:
        if augment.get('type') == 'BatchFixedSizePad':
            augment['size'] = (height, width)


def random_batch(model: nn.Module, shape: tuple[int, int], batch: int) -> dict:
    """Images of ``shape``, height and width in pixels, annotated for the heads of ``model``.

    Boxes, masks, semantic regions and labels are random and the same in each call.

    Raises:
        ValueError: the model is from none of mmdet, mmseg and mmpretrain.
    """
    make = {'mmdet': _detection, 'mmseg': _segmentation, 'mmpretrain': _classification}
    generator = torch.Generator().manual_seed(0)
    return make[package(model)](model, shape, batch, generator)


def package(model: nn.Module) -> str:
    """The package of a model: ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``.

    Raises:
        ValueError: it is from none of them.
    """
    for cls in type(model).__mro__:  # a class of one's own is derived from one of theirs
        name = cls.__module__.partition('.')[0]
        if name in ('mmdet', 'mmseg', 'mmpretrain'):
            return name
    raise ValueError(f'a {type(model).__name__} is no model of mmdet, mmseg or mmpretrain')


def _detection(
    model: nn.Module, shape: tuple[int, int], batch: int, generator: torch.Generator
) -> dict:
    from mmdet.testing import demo_mm_inputs

    things, classes = _number_of_classes(model)
    # The semantic branch of HTC predicts at stride 8 and compares there.
    stride = 8 if getattr(getattr(model, 'roi_head', None), 'with_semantic', False) else 1
    data = demo_mm_inputs(batch, [(3, *shape)] * batch, [OBJECTS] * batch, with_mask=True)
    for sample in data['data_samples']:
        objects = sample.gt_instances
        objects.labels = torch.randint(0, things, (OBJECTS,), generator=generator)
        objects.masks.masks = objects.masks.masks.astype('uint8')  # as the pipelines load them
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
        if classes > things:
            size = (shape[0] // stride, shape[1] // stride)
            sample.gt_sem_seg = PixelData(sem_seg=_regions(things, classes, size, generator))
    return data


def _number_of_classes(model: Any) -> tuple[int, int]:
    """Classes of objects, and all classes where regions are predicted as well."""
    panoptic = {
        (module.num_things_classes, module.num_things_classes + module.num_stuff_classes)
        for module in model.modules()
        if getattr(module, 'num_stuff_classes', None)
    }
    things = [
        module.num_classes
        for name, module in model.named_modules()
        if isinstance(getattr(module, 'num_classes', None), int) and 'rpn' not in name
    ]
    if panoptic:
        return max(panoptic)
    semantic = getattr(getattr(model, 'roi_head', None), 'semantic_head', None)
    count = min(things, default=1)
    return count, count if semantic is None else max(count + 1, semantic.num_classes)


def _segmentation(
    model: nn.Module, shape: tuple[int, int], batch: int, generator: torch.Generator
) -> dict:
    from mmseg.structures import SegDataSample

    counts: list[Any] = [getattr(module, 'num_classes', None) for module in model.modules()]
    classes = min((n for n in counts if isinstance(n, int)), default=2)
    meta = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), shape)
    samples = []
    for _ in range(batch):
        labels = _regions(0, classes, shape, generator)
        samples.append(SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels)))
        samples[-1].gt_edge_map = PixelData(data=_regions(0, 2, shape, generator))
    return dict(inputs=_images(shape, batch, generator), data_samples=samples)


def _classification(
    model: Any, shape: tuple[int, int], batch: int, generator: torch.Generator
) -> dict:
    from mmpretrain.structures import DataSample

    head = getattr(model, 'head', None)
    classes = getattr(head, 'num_classes', None) or 2
    samples = []
    for label in torch.randint(0, classes, (batch,), generator=generator):
        sample = DataSample(metainfo=dict(img_shape=shape, ori_shape=shape)).set_gt_label(label)
        if type(head).__name__.startswith('MultiLabel'):
            sample.set_gt_score(torch.eye(classes)[label])
        samples.append(sample)
    return dict(inputs=_images(shape, batch, generator), data_samples=samples)


def _images(shape: tuple[int, int], batch: int, generator: torch.Generator) -> list[Tensor]:
    size = (batch, 3, *shape)
    return list(torch.randint(0, 256, size, generator=generator, dtype=torch.uint8))


def _regions(first: int, end: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Labels of nine regions, as many as an image of ADE20K has: ``[1, height, width]``."""
    labels = torch.randint(first, end, (1, 1, 3, 3), generator=generator)
    return nn.functional.interpolate(labels.float(), shape)[0].long()
