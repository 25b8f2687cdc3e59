"""Small models with each head, and their loss of random annotations."""

from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from .. import mm  # noqa: F401  registers ATMNet
from ..packaged import model_names
from . import models

# Pixels. At 64, oneDNN's bfloat16 weight gradient of RetinaNet's last level, a 3x3 convolution with
# stride 2 over one pixel, holds memory that nothing wrote (torch 2.11 and 2.15 on AVX-512).
_SIZE = 128


def build(head: str) -> nn.Module:
    """The smallest packaged model with a head, such as ``'mask_rcnn'``, with random weights."""
    names = [name for name in sorted(model_names()) if name.startswith(f'{head}_atmnet_xt')]
    cfg = Config.fromfile(model_names()[names[0]])
    models.set_shape(cfg.model, _SIZE, _SIZE)
    return models.build(cfg).train()


def loss(model: Any) -> Tensor:
    """The loss of two small random images."""
    data = models.random_batch(model, (_SIZE, _SIZE), 2)
    data = model.data_preprocessor(data, training=True)
    return model.parse_losses(model(**data, mode='loss'))[0]
