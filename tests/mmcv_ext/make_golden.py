"""Write ``tests/data/mmcv_ops.npz``: what compiled mmcv computes in the cases below.

    python tests/mmcv_ext/make_golden.py

Run it where mmcv is compiled. A case calls public functions of mmcv with inputs from NumPy's
``default_rng``, seeded with the CRC-32 of the case's name, and gives the results, followed by the
gradients of the inputs. mmcv has no code for a CPU for some operators. Their cases hold a
definition in NumPy, evaluated in float64 and differentiated by finite differences.

Inputs in float16 are small multiples of powers of two, so that no intermediate result is rounded
and the order of the arithmetic does not matter.
"""

import itertools
import zlib
from collections.abc import Callable
from math import ceil, floor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / 'data' / 'mmcv_ops.npz'

Array = np.ndarray
Generator = np.random.Generator


class Case(NamedTuple):
    """One call of an operator."""

    draw: Callable[[Generator], tuple[list[Array], list[Array]]]  # its inputs: differentiable, not
    operator: Callable[..., Any]  # mmcv's, for tensors
    definition: Callable[..., Array] | None = None  # in NumPy, where mmcv needs a GPU


def run(name: str, device: str = 'cpu') -> list[Array]:
    """Results and gradients of case ``name`` by the mmcv that is installed."""
    case, rng = CASES[name], _generator(name)
    inputs, others = ([torch.from_numpy(x).to(device) for x in part] for part in case.draw(rng))
    results = case.operator(*(x.requires_grad_() for x in inputs), *others)
    results = list(results) if isinstance(results, tuple) else [results]
    if inputs:
        grad = _normal(rng, results[0].shape, inputs[0].cpu().detach().numpy().dtype)
        results[0].backward(torch.from_numpy(grad).to(device))
        results += [x.grad for x in inputs]
    return [result.detach().cpu().numpy() for result in results]


def define(name: str) -> list[Array]:
    """Results and gradients of case ``name`` by its definition."""
    case, rng = CASES[name], _generator(name)
    inputs, others = case.draw(rng)
    inputs = [x.astype(np.float64) for x in inputs]
    result = case.definition(*inputs, *others)
    grad = _normal(rng, result.shape, np.float32)
    gradients = [np.zeros_like(x) for x in inputs]
    step = 1e-6
    for x, gradient in zip(inputs, gradients, strict=True):
        for place in np.ndindex(x.shape):
            value = x[place]
            x[place] = value + step
            above = case.definition(*inputs, *others)
            x[place] = value - step
            below = case.definition(*inputs, *others)
            x[place] = value
            gradient[place] = ((above - below) * grad).sum() / (2 * step)
    return [result, *gradients]


def _generator(name: str) -> Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def _normal(rng: Generator, shape: tuple[int, ...], dtype: Any, step: float = 1) -> Array:
    """Normal values; in float16 -1, 0 and 1 times ``step``."""
    if dtype == np.float16:
        return (rng.integers(-1, 2, shape) * step).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _ops() -> ModuleType:
    from mmcv import ops  # late, so that a stand-in can be put in place

    return ops


# Boxes


def _boxes(rng: Generator, count: int, integral: bool = False) -> Array:
    corner, size = rng.random((count, 2)) * 60, rng.random((count, 2)) * 30 + 1
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    return boxes.round() if integral else boxes


def _scores(rng: Generator, count: int) -> Array:
    """Distinct ones; the order of equal ones depends on the release of torch."""
    return (rng.permutation(count) / 256).astype(np.float32)


def _nms(count: int, offset: int, integral: bool) -> Case:
    def operator(boxes, scores):
        # Pairs of integral boxes reach 0.5 exactly, and 0.6, which float32 rounds up.
        kept = [_ops().nms(boxes, scores, iou, offset=offset)[1] for iou in (0.3, 0.5, 0.6)]
        return *kept, *_ops().nms(boxes, scores, 0.5, offset, score_threshold=0.2, max_num=5)

    return Case(lambda rng: ([], [_boxes(rng, count, integral), _scores(rng, count)]), operator)


def _batched_nms(split_thr: int) -> Case:
    def draw(rng):
        return [], [_boxes(rng, 150), _scores(rng, 150), rng.integers(0, 4, 150)]

    def operator(boxes, scores, labels):
        config = dict(type='nms', iou_threshold=0.4, split_thr=split_thr)
        return _ops().batched_nms(boxes, scores, labels, config)

    return Case(draw, operator)


def _soft_nms(count: int, method: str, offset: int, min_score: float) -> Case:
    def draw(rng):
        scores = (rng.integers(0, 20, count) / 20).astype(np.float32)  # many are equal
        return [], [_boxes(rng, count), scores]

    return Case(draw, lambda *x: _ops().soft_nms(*x, 0.3, 0.5, min_score, method, offset))


def _nms_match(count: int) -> Case:
    def draw(rng):
        return [], [np.column_stack([_boxes(rng, count), _scores(rng, count)])]

    def operator(dets):
        groups = _ops().nms_match(dets, 0.4)
        sizes = torch.tensor([len(group) for group in groups], dtype=torch.long)
        return sizes, torch.cat([*groups, sizes.new_empty(0, device=dets.device)])

    return Case(draw, operator)


# Pooling


def _rois(rng: Generator, count: int, dtype: Any) -> Array:
    """In and around two images of 80x64."""
    image = rng.integers(0, 2, (count, 1))
    if dtype == np.float16:
        corner, size = (
            rng.integers(-2, 14, (count, 2)) * 4,
            16 * 2 ** rng.integers(0, 2, (count, 2)),
        )
    else:
        corner, size = rng.random((count, 2)) * 90 - 15, rng.random((count, 2)) ** 2 * 50
    return np.concatenate([image, corner, corner + size], axis=1).astype(dtype)


def _roi_align(count: int, dtype: Any, pool_mode: str, sampling_ratio: int, aligned: bool) -> Case:
    def draw(rng):
        return [_normal(rng, (2, 3, 16, 20), dtype)], [_rois(rng, count, dtype)]

    def operator(x, rois):
        return _ops().roi_align(x, rois, (4, 4), 0.25, sampling_ratio, pool_mode, aligned)

    return Case(draw, operator)


def _roi_pool(count: int, bins: tuple[int, int]) -> Case:
    def draw(rng):
        rois = _rois(rng, count, np.float32)
        rois[-1:, 3] = rois[-1:, 1] - 2  # of negative width
        return [_normal(rng, (2, 2, 8, 10), np.float32)], [rois]

    def definition(x, rois):
        pooled = np.zeros((count, x.shape[1], *bins))
        for k, roi in enumerate(rois.astype(np.float64)):
            features, start, size = x[int(roi[0])], roi[1:3] / 8, (roi[3:] + 1 - roi[1:3]) / 8
            for i, j in np.ndindex(bins):
                edges = [
                    slice(max(floor(first + n * step), 0), max(ceil(first + (n + 1) * step), 0))
                    for first, step, n in zip(start, size / bins[::-1], (j, i), strict=True)
                ]
                cells = features[:, edges[1], edges[0]]
                if cells.size and size.min() > 0:
                    pooled[k, :, i, j] = cells.max(axis=(1, 2))
        return pooled

    return Case(draw, lambda x, rois: _ops().roi_pool(x, rois, bins, 1 / 8), definition)


# Convolutions


class _Geometry(NamedTuple):
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    deform_groups: int = 1


def _deform_conv(geometry: _Geometry, dtype: Any, spread: float, *, mask: bool, bias=False) -> Case:
    """``spread`` scales the offsets; ``mask`` makes it the modulated convolution."""
    size, kernel = np.array([6, 7]), np.array([3, 2])

    def draw(rng):
        reach = np.multiply(geometry.dilation, kernel - 1)
        output = (size + 2 * np.array(geometry.padding) - reach - 1) // geometry.stride + 1
        taps = geometry.deform_groups * kernel.prod()
        inputs = [
            _normal(rng, (2, 4, *size), dtype),
            _normal(rng, (2, 2 * taps, *output), dtype, step=0.5) * dtype(spread),
        ]
        if mask:
            inputs.append(abs(_normal(rng, (2, taps, *output), dtype, step=0.5)))
        inputs.append(_normal(rng, (6, 4 // geometry.groups, *kernel), dtype))
        if bias:
            inputs.append(_normal(rng, (6,), dtype))
        return inputs, []

    def operator(*inputs):
        if not mask:
            return _ops().deform_conv2d(*inputs, *geometry)
        return _ops().modulated_deform_conv2d(*inputs, *([] if bias else [None]), *geometry)

    return Case(draw, operator)


# Attention


def _ms_deform_attn() -> Case:
    shapes = [(4, 6), (2, 3)]

    def draw(rng):
        value = _normal(rng, (2, 30, 2, 3), np.float32)
        locations = (rng.random((2, 5, 2, 2, 3, 2)) * 1.4 - 0.2).astype(np.float32)
        weights = rng.random((2, 5, 2, 2, 3)).astype(np.float32)
        return [value, locations, weights], []

    def operator(value, locations, weights):
        sizes, starts = (torch.tensor(x, device=value.device) for x in (shapes, [0, 24]))
        function = _ops().multi_scale_deform_attn.MultiScaleDeformableAttnFunction
        return function.apply(value, sizes, starts, locations, weights, 64)

    def definition(value, locations, weights):
        output = np.zeros((2, 5, 2, 3))
        for b, q, head, level, point in np.ndindex(weights.shape):
            height, width = shapes[level]
            cells = value[b, [0, 24][level] :][: height * width, head].reshape(height, width, -1)
            x, y = locations[b, q, head, level, point] * (width, height) - 0.5
            for i, j in itertools.product((floor(y), floor(y) + 1), (floor(x), floor(x) + 1)):
                if 0 <= i < height and 0 <= j < width:
                    share = (1 - abs(y - i)) * (1 - abs(x - j))
                    output[b, q, head] += weights[b, q, head, level, point] * share * cells[i, j]
        return output.reshape(2, 5, 6)

    return Case(draw, operator, definition)


# Losses


def _focal_loss(kind: str, gamma: float, weighted: bool, reduction: str) -> Case:
    count, classes, alpha = 12, 5, 0.25

    def draw(rng):
        # Besides the classes: the background of a sigmoid, or what a softmax ignores.
        low, high = (-1, classes) if kind == 'softmax' else (0, classes + 1 - weighted)
        targets = rng.integers(low, high, count)
        weights = [rng.random(classes).astype(np.float32)] if weighted else []
        return [2 * _normal(rng, (count, classes), np.float32)], [targets, *weights]

    def operator(logits, targets, weights=None):
        function = getattr(_ops(), f'{kind}_focal_loss')
        return function(logits, targets, gamma, alpha, weights, reduction)

    def definition(logits, targets, weights=None):
        of_target = targets[:, None] == np.arange(classes)
        if kind == 'sigmoid':
            p = 1 / (1 + np.exp(-logits))
            positive = -alpha * (1 - p) ** gamma * np.log(p)
            loss = np.where(of_target, positive, (alpha - 1) * p**gamma * np.log(1 - p))
        else:
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            loss = np.where(of_target, -alpha * (1 - p) ** gamma * np.log(p), 0).sum(1)
        if weights is not None:
            loss = (loss.T * weights[targets]).T
        scale = dict(none=1, sum=1, mean=1 / count)[reduction]
        return loss if reduction == 'none' else np.array(loss.sum() * scale)

    return Case(draw, operator, definition)


def _cases() -> dict[str, Case]:
    half, single = np.float16, np.float32
    cases = {'roi_pool': _roi_pool(20, (3, 2)), 'ms_deform_attn': _ms_deform_attn()}
    for offset in (0, 1):
        for count in (0, 1, 200):
            cases[f'nms {count} offset={offset}'] = _nms(count, offset, False)
        cases[f'nms integral offset={offset}'] = _nms(200, offset, True)
        for method in ('naive', 'linear', 'gaussian'):
            for min_score in (1e-3, 0.2):
                name = f'soft_nms {method} offset={offset} min_score={min_score}'
                cases[name] = _soft_nms(100, method, offset, min_score)
    cases |= {f'soft_nms {count}': _soft_nms(count, 'linear', 0, 1e-3) for count in (0, 1)}
    cases |= {f'batched_nms split_thr={n}': _batched_nms(n) for n in (10000, 100)}
    cases |= {f'nms_match {count}': _nms_match(count) for count in (0, 1, 150)}
    for mode, ratio, aligned in itertools.product(('avg', 'max'), (0, 2), (True, False)):
        name = f'roi_align {mode} sampling_ratio={ratio} aligned={aligned}'
        cases[name] = _roi_align(12, single, mode, ratio, aligned)
        cases[f'{name} half'] = _roi_align(12, half, mode, ratio, aligned)
    cases |= {
        f'roi_align 0 {mode}': _roi_align(0, single, mode, 0, True) for mode in ('avg', 'max')
    }
    geometries = {
        'plain': _Geometry(),
        'strided': _Geometry(stride=(2, 1), padding=(0, 2)),
        'dilated': _Geometry(padding=(2, 1), dilation=(2, 1), deform_groups=2),
        'grouped': _Geometry(groups=2, deform_groups=2),
    }
    for name, geometry in geometries.items():
        cases[f'deform_conv {name}'] = _deform_conv(geometry, single, 2, mask=False)
        cases[f'modulated_deform_conv {name}'] = _deform_conv(geometry, single, 2, mask=True)
    for mask, name in ((False, 'deform_conv'), (True, 'modulated_deform_conv')):
        cases[f'{name} still'] = _deform_conv(_Geometry(), single, 0, mask=mask)
        cases[f'{name} half'] = _deform_conv(_Geometry(groups=2), half, 1, mask=mask)
    cases['modulated_deform_conv bias'] = _deform_conv(_Geometry(), single, 2, mask=True, bias=True)
    for kind, (reduction, weighted) in itertools.product(
        ('sigmoid', 'softmax'), (('mean', False), ('sum', True), ('none', False))
    ):
        if (kind, reduction) != ('softmax', 'none'):  # which mmcv's own backward pass fails on
            name = f'{kind}_focal_loss {reduction} weighted={weighted}'
            cases[name] = _focal_loss(kind, 1.5 if weighted else 2.0, weighted, reduction)
    return cases


CASES = _cases()


def main() -> None:
    """Write the file."""
    golden = {}
    for name, case in CASES.items():
        for i, result in enumerate(run(name) if case.definition is None else define(name)):
            if case.definition is not None:
                result = result.astype(np.float32)
            golden[f'{name}/{i}'] = result
    np.savez_compressed(GOLDEN, **golden)


if __name__ == '__main__':
    main()
