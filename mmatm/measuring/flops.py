"""Parameters and FLOPs of a config's model."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.utils.flop_counter import FlopCounterMode

from ..models import ActiveTokenMixer
from .models import package

aten = torch.ops.aten

# Height and width of images where none is given, by the package of the config.
SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 512), 'mmpretrain': (224, 224)}


def _elements(of_input: float, of_output: float = 0) -> Callable[..., float]:
    """Return a count that is proportional to the elements of the input and the output."""

    def count(x: Any, *_: Any, out_shape: Any = None, **__: Any) -> float:
        if isinstance(out_shape[0], (tuple, list, torch.Size)):  # several outputs
            out_shape = out_shape[0]
        return of_input * math.prod(x) + of_output * math.prod(out_shape)

    return count


def _batched_product(_: Any, a: Any, b: Any, **__: Any) -> int:
    return 2 * math.prod(a) * b[-1]


# What torch does not count.
MORE_PRODUCTS = {aten.baddbmm_: _batched_product}
# What fvcore's flop_count adds to the products, per element of input and output.
NOT_PRODUCTS = {
    aten.native_layer_norm: _elements(5),
    aten.native_group_norm: _elements(5),
    aten.native_batch_norm: _elements(2),
    aten._native_batch_norm_legit_no_training: _elements(2),
    aten.upsample_nearest2d: _elements(0, 1),
    aten.upsample_bilinear2d: _elements(0, 4),
    aten._adaptive_avg_pool2d: _elements(1),
}


def complexity(cfg: Config, height: int, width: int) -> dict[str, int]:
    """Count the parameters and multiply-adds of a config's model for one ``height x width`` image.

    Returns:
        ``parameters``, including all heads; ``flops`` of convolutions and matrix products;
        ``flops_fvcore``, with normalization, interpolation and pooling as fvcore counts them;
        ``flops_computed``, the products that are computed. Segmentors are counted up to the logits
        at the size of the image, two-stage detectors with the proposals of random weights, and
        deformable attention without its sampling.
    """
    # For most models shapes are enough.
    try:
        model = _build(cfg, 'meta')
        if not _reads_values(model):
            return _complexity(model, height, width)
    except (NotImplementedError, RuntimeError):
        pass  # it needs values after all, as where Swin computes its drop path rates
    return _complexity(_build(cfg, 'cpu'), height, width)


def _reads_values(model: Any) -> bool:
    """Whether a model reads numbers from tensors, without an error where there are none.

    Two-stage detectors select proposals by value, and deformable attention reads the sizes of its
    maps.
    """
    names = {type(module).__name__ for module in model.modules()}
    return hasattr(model, 'roi_head') or 'MultiScaleDeformableAttention' in names


def _build(cfg: Config, device: str) -> Any:
    torch.manual_seed(0)
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope'))
    with scope, torch.device(device):
        model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            module.training = True  # or it becomes one operator, which is not counted
    return model


def _complexity(model: Any, height: int, width: int) -> dict[str, int]:
    image = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    shape = (height, width)
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1, 1))
    meta['batch_input_shape'] = shape
    if hasattr(model, 'encode_decode'):
        forward = partial(model.encode_decode, image, [meta])
    elif package(model) == 'mmdet':
        from mmdet.structures import DetDataSample

        forward = partial(model, image, [DetDataSample(metainfo=meta)])
    else:
        forward = partial(model, image)

    computed, others = count_products(forward)
    products = computed
    mixers = [module for module in model.modules() if isinstance(module, ActiveTokenMixer)]
    if mixers:
        # Only the backbone differs from the paper's formulation, and there shapes are enough.
        forward = partial(model.backbone.to('meta'), image.to('meta'))
        folded, _ = count_products(forward)
        for mixer in mixers:
            mixer.folds = lambda tokens: False  # type: ignore[method-assign]
        products += count_products(forward)[0] - folded
    return {
        'parameters': sum(p.numel() for p in model.parameters()),
        'flops': products,
        'flops_fvcore': products + others,
        'flops_computed': computed,
    }


def count_products(forward: Callable[[], Any]) -> tuple[int, int]:
    """Count the multiply-adds of products, and the rest as fvcore does."""
    counter = FlopCounterMode(display=False, custom_mapping=MORE_PRODUCTS | NOT_PRODUCTS)
    with torch.no_grad(), counter:
        forward()
    counts = counter.get_flop_counts()['Global']
    others = sum(count for operator, count in counts.items() if operator in NOT_PRODUCTS)
    return (sum(counts.values()) - others) // 2, others
