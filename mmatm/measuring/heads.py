"""Small models with each head, and random annotations for them."""

import logging
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from torch import Tensor, nn

from .. import mm  # noqa: F401  registers ATMNet
from ..packaged import model_names

# Pixels. At 64, oneDNN's bfloat16 weight gradient of RetinaNet's last level, a 3x3 convolution with
# stride 2 over one pixel, holds memory that nothing wrote (torch 2.11 and 2.15 on AVX-512).
_SIZE = 128


def build(head: str) -> nn.Module:
    """The smallest packaged model with a head, such as ``'mask_rcnn'``, with random weights."""
    names = [name for name in sorted(model_names()) if name.startswith(f'{head}_atmnet_xt')]
    cfg = Config.fromfile(model_names()[names[0]])
    init_default_scope(cfg.default_scope)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (_SIZE, _SIZE)
    for augment in cfg.model.data_preprocessor.get('batch_augments') or []:
        augment.size = (_SIZE, _SIZE)
    torch.manual_seed(0)
    model: Any = revert_sync_batchnorm(MODELS.build(cfg.model))
    logging.disable(logging.INFO)  # mmengine would name every parameter
    model.init_weights()
    logging.disable(logging.NOTSET)
    return model.train()


def loss(model: Any, head: str) -> Tensor:
    """The loss of two small random images."""
    data = model.data_preprocessor(_inputs(model, head), training=True)
    return model.parse_losses(model(**data, mode='loss'))[0]


def _inputs(model: Any, head: str) -> dict:
    if type(model).__module__.startswith('mmdet'):
        from mmdet.testing import demo_mm_inputs

        masks = 'mask' in head
        shapes = [[3, _SIZE, _SIZE]] * 2
        return demo_mm_inputs(2, shapes, num_items=[2, 2], num_classes=80, with_mask=masks)
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, _SIZE, _SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 150, (2, 1, _SIZE, _SIZE), generator=generator)
    meta = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), (_SIZE, _SIZE))
    samples = [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=each)) for each in labels]
    return dict(inputs=list(images), data_samples=samples)
