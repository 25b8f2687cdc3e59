#!/usr/bin/env python
"""Count parameters and FLOPs of a config: python tools/analysis/get_flops.py CONFIG --shape H W

FLOPs are multiply-adds for one image. The products of the token mixer are counted as in the paper
(four C x C products per token). The last line counts the products that are computed here.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.utils.flop_counter import FlopCounterMode

from mmatm.cli.arguments import add_config_options, read_config
from mmatm.models import ActiveTokenMixer

aten = torch.ops.aten

SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 512), 'mmpretrain': (224, 224)}


def _elements(of_input: float, of_output: float = 0) -> Callable[..., float]:
    """Return a count that is proportional to the elements of the input and the output."""

    def count(x: Any, *_: Any, out_shape: Any = None, **__: Any) -> float:
        if isinstance(out_shape[0], (tuple, list, torch.Size)):  # several outputs
            out_shape = out_shape[0]
        return of_input * math.prod(x) + of_output * math.prod(out_shape)

    return count


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file, or the name of a packaged config')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='image size (default: 800 1280 for detection, 512 512 for segmentation, 224 224 for '
        'classification)',
    )
    add_config_options(parser)
    parser.add_argument('--json', action='store_true', help='print exact numbers as JSON')
    args = parser.parse_args()
    if args.shape and min(args.shape) < 32:
        parser.error(f'--shape must be at least 32 32, but is {args.shape[0]} {args.shape[1]}')
    cfg = read_config(args.config, args.cfg_options)
    shape = args.shape or SHAPES[cfg.default_scope]
    try:
        result = complexity(cfg, *shape)
    except RuntimeError as error:  # such as fewer tokens than DINO has queries
        sys.exit(f'{args.config} cannot be run at {shape[0]} x {shape[1]}: {error}')
    if args.json:
        print(json.dumps(result))
        return
    for name, (label, unit, scale) in {
        'parameters': ('parameters', 'M', 1e6),
        'flops': ('FLOPs, products only', 'G', 1e9),
        'flops_fvcore': ('  with normalization and interpolation, as fvcore counts', 'G', 1e9),
        'flops_computed': ('  products computed here, after folding', 'G', 1e9),
    }.items():
        print(f'{label:58}{result[name] / scale:8.1f} {unit}')
    print(f'for one image of {shape[0]} x {shape[1]}: {Path(cfg.filename).stem}')


def complexity(cfg: Config, height: int, width: int) -> dict[str, int]:
    """Count the parameters and multiply-adds of a config's model for one ``height x width`` image.

    Returns:
        ``parameters``, including all heads; ``flops`` of convolutions and matrix products;
        ``flops_fvcore``, with normalization, interpolation and pooling as fvcore counts them;
        ``flops_computed``, the products that are computed. Segmentors are counted up to the logits
        at the size of the image, two-stage detectors with the proposals of random weights, and
        deformable attention without its sampling.
    """
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    # Two-stage detectors select proposals by value, and deformable attention reads the sizes of its
    # maps from tensors. For other models shapes are enough.
    names = {type(module).__name__ for module in model.modules()}
    by_value = hasattr(model, 'roi_head') or 'MultiScaleDeformableAttention' in names
    device = 'cpu' if by_value else 'meta'
    for module in model.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            module.training = True  # or it becomes one operator, which is not counted
    model, image = model.to(device), torch.zeros(1, 3, height, width, device=device)
    shape = (height, width)
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1, 1))
    meta['batch_input_shape'] = shape
    if hasattr(model, 'encode_decode'):
        forward = partial(model.encode_decode, image, [meta])
    elif by_value:
        from mmdet.structures import DetDataSample

        forward = partial(model, image, [DetDataSample(metainfo=meta)])
    else:
        forward = partial(model, image)

    computed, others = _count(forward)
    # Only the backbone differs from the paper's formulation, and there shapes are enough.
    folded, _ = _count(partial(model.backbone, image))
    forward = partial(model.backbone.to('meta'), image.to('meta'))
    for mixer in model.modules():
        if isinstance(mixer, ActiveTokenMixer):
            mixer.folds = lambda tokens: False
    products = computed - folded + _count(forward)[0]
    return {
        'parameters': sum(p.numel() for p in model.parameters()),
        'flops': products,
        'flops_fvcore': products + others,
        'flops_computed': computed,
    }


def _count(forward: Callable[[], Any]) -> tuple[int, int]:
    """Count the multiply-adds of products, and the rest as fvcore does."""
    counter = FlopCounterMode(display=False, custom_mapping=NOT_PRODUCTS)
    with torch.no_grad(), counter:
        forward()
    counts = counter.get_flop_counts()['Global']
    others = sum(count for operator, count in counts.items() if operator in NOT_PRODUCTS)
    return (sum(counts.values()) - others) // 2, others


if __name__ == '__main__':
    main()
