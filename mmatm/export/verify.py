"""An exported file in onnxruntime beside the model of mm that it was made of."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from .models import Deployed, Detector

# The greatest differences that are accepted.
TOLERANCES = dict(scores=1e-3, logits=1e-4, labels=1e-3, boxes=1e-2, masks=1e-3)
CLASSIFIER_SCORES = 1e-4
# Of the objects that are found without a threshold: rounding decides which of two is suppressed
# where their overlap is just as great as allowed.
SPARE = 0.02
METRIC_POINTS = 0.1


class Session:
    """A file in onnxruntime.

    Args:
        model: path, or the bytes of a file.
        threads: of one call; 0 takes as many as there are cores.
    """

    def __init__(self, model: str | Path | bytes, threads: int = 0):
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        model = model if isinstance(model, bytes) else str(model)
        self.session = onnxruntime.InferenceSession(
            model, options, providers=['CPUExecutionProvider']
        )
        self.inputs = {i.name: i.type for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def __call__(self, image: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
        """Outputs by name, for RGB images ``[B, 3, H, W]`` whose originals have ``size``."""
        dtype = np.float32 if 'float' in self.inputs['image'] else np.uint8
        values: dict[str, Any] = dict(
            image=image.numpy().astype(dtype), size=np.asarray(size, dtype=np.int64)
        )
        found = self.session.run(None, {name: values[name] for name in self.inputs})
        return dict(zip(self.outputs, map(torch.from_numpy, found), strict=True))


def compare(path: Path, model: Deployed, images: Sequence[tuple[Tensor, Sequence[int]]]) -> Any:
    """How far onnxruntime's outputs are from those of mm's model.

    Detectors are compared twice, with the threshold of the config and without one, so that there is
    something to compare even where a model is sure of nothing.

    Args:
        path: the file.
        model: what it was made of.
        images: RGB images ``[1, 3, H, W]``, each with the height and width of its original.

    Yields:
        per image: what was compared, and the greatest difference per output, ``dict``; of ``boxes``
        it is 1 - IoU, of ``labels`` and ``masks`` the share of pixels or objects that differ, of
        ``logits`` relative to the greatest where that is above 1.
    """
    thresholds: list[float | None] = [None]
    if isinstance(model, Detector):
        thresholds.append(0.0)
    for threshold in thresholds:
        session = Session(path if threshold is None else with_threshold(path, threshold))
        with _threshold(model, threshold):
            for image, size in images:
                name = 'x'.join(map(str, image.shape[2:]))
                found, expected = session(image, size), predict(model, image, size)
                if isinstance(model, Detector):
                    name += f', {len(expected["scores"])} objects'
                    name += '' if threshold is None else ' without a threshold'
                yield name, differences(found, expected, 0.0 if threshold is None else SPARE)


def predict(model: Deployed, image: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
    """What mm's own ``test_step`` finds, under the names of the file's outputs."""
    height, width = image.shape[2:]
    meta = dict(
        img_shape=(height, width),
        ori_shape=tuple(size),
        scale_factor=(width / size[1], height / size[0]),
    )
    mm = model.model
    scope = type(mm).__module__.split('.')[0]
    kind = dict(mmpretrain='DataSample', mmseg='SegDataSample', mmdet='DetDataSample')[scope]
    sample = getattr(import_module(f'{scope}.structures'), kind)
    inputs = list(image.flip(1))  # mm's images are BGR
    with torch.no_grad():
        samples = mm.test_step(
            dict(inputs=inputs, data_samples=[sample(metainfo=meta) for _ in inputs])
        )
        if model.kind == 'classifier':
            return dict(scores=torch.stack([s.pred_score for s in samples]))
        if model.kind == 'segmentor':
            data = dict(inputs=inputs, data_samples=[sample(metainfo=meta) for _ in inputs])
            logits = mm(mm.data_preprocessor(data)['inputs'], mode='tensor')
            labels = torch.cat([s.pred_sem_seg.data for s in samples])
            return dict(labels=labels, logits=logits)
    found = samples[0].pred_instances
    result = dict(boxes=found.bboxes, scores=found.scores, labels=found.labels)
    if 'masks' in found:
        result['masks'] = found.masks
        result['mask_threshold'] = torch.tensor(model.cfg.mask_thr_binary)
    return result


def differences(
    found: dict[str, Tensor], expected: dict[str, Tensor], spare: float = 0.0
) -> dict[str, float]:
    """See :func:`compare`; the worst ``spare`` of the objects do not count."""
    if 'boxes' not in found:
        result = {}
        for name, value in found.items():
            other = expected[name]
            if value.shape != other.shape:
                result[name] = float('inf')
            elif name == 'labels':
                result[name] = float((value != other).float().mean())
            else:
                scale = max(1.0, float(other.abs().max()))  # float32 keeps digits, not decimals
                result[name] = float((value - other).abs().max()) / scale
        return result
    if found['scores'].shape != expected['scores'].shape:
        return dict(scores=float('inf'))
    if not len(found['scores']):
        return dict(boxes=0.0, scores=0.0, labels=0.0)
    match = _match(found, expected)
    overlap = iou(found['boxes'], expected['boxes'][match])
    kept = overlap.argsort(descending=True)[: len(overlap) - int(spare * len(overlap))]
    found = {name: value[kept] for name, value in found.items()}
    match, overlap = match[kept], overlap[kept]
    result = dict(
        boxes=float((1 - overlap).max()),
        scores=float((found['scores'] - expected['scores'][match]).abs().max()),
        labels=float((found['labels'] != expected['labels'][match]).float().mean()),
    )
    if 'masks' in found:
        masks = expected['masks'][match]
        pasted = paste(found['masks'], found['boxes'], masks.shape[1:], expected['mask_threshold'])
        result['masks'] = float((pasted != masks).float().mean((1, 2)).max())
    return result


def exceeded(model: Deployed, values: dict[str, float]) -> list[str]:
    """The outputs that differ by more than is accepted, each in words."""
    limits = dict(TOLERANCES)
    if model.kind == 'classifier':
        limits['scores'] = CLASSIFIER_SCORES
    return [f'{n} {v:.2g} > {limits[n]:g}' for n, v in values.items() if not v <= limits[n]]


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of ``[N, 4]`` boxes and as many others; 1 where both are empty."""
    low = torch.maximum(boxes[:, :2], others[:, :2])
    high = torch.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    area, other = ((b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (boxes, others))
    union = area + other - shared
    return torch.where(union > 0, shared / union.clamp(min=1e-12), 1.0)


def paste(masks: Tensor, boxes: Tensor, size: Sequence[int], threshold: Any) -> Tensor:
    """Masks over boxes, ``[N, h, w]`` probabilities, to masks of the image, ``[N, *size]`` bool."""
    height, width = size
    result = torch.zeros(len(masks), height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom), out in zip(masks, boxes.tolist(), result, strict=True):
        x = (torch.arange(width) + 0.5 - left) / max(right - left, 1e-6) * 2 - 1
        y = (torch.arange(height) + 0.5 - top) / max(bottom - top, 1e-6) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1)
        out[:] = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= threshold
    return result


def noise(height: int, width: int, seed: int) -> Tensor:
    """An image with structure of all sizes, ``[1, 3, H, W]`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, height, width)
    for cells in (2, 5, 13, 40):
        coarse = torch.rand(1, 3, cells, cells, generator=generator)
        total += F.interpolate(coarse, (height, width), mode='bilinear')
    return ((total - total.amin()) / (total.amax() - total.amin()) * 255).to(torch.uint8)


def test_images(height: int, width: int) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Images of three sizes, none of them traced; the first is ``height`` x ``width``."""
    sizes = ((height, width), (width * 3 // 4 + 5, height * 2 // 3 + 1), (height // 2 + 3, width))
    for seed, (h, w) in enumerate(sizes):
        yield noise(h, w, seed), (h * 3 // 2, w * 3 // 2 + 1)


def _match(found: dict[str, Tensor], expected: dict[str, Tensor]) -> Tensor:
    """Which expected object is each one that was found; the best pairs of one class first."""
    boxes, others = found['boxes'], expected['boxes']
    count = len(boxes)
    pairs = iou(boxes.repeat_interleave(count, 0), others.repeat(count, 1)).view(count, count)
    pairs = pairs - 2.0 * (found['labels'][:, None] != expected['labels'])
    pairs = pairs - (found['scores'][:, None] - expected['scores']).abs()
    match = torch.zeros(count, dtype=torch.long)
    for _ in range(count):
        one, other = divmod(int(pairs.argmax()), count)
        match[one] = other
        pairs[one], pairs[:, other] = -9, -9
    return match


def with_threshold(path: Path, threshold: float) -> bytes:
    """The file with another score threshold."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name == 'score_threshold':
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.array(threshold, np.float32), tensor.name)
            )
            return proto.SerializeToString()
    raise ValueError(f'{path} has no score_threshold')


@contextmanager
def _threshold(model: Deployed, threshold: float | None) -> Iterator[None]:
    """Mm's detector predicts with another score threshold."""
    if threshold is None:
        yield
        return
    cfg = model.cfg
    old, cfg.score_thr = cfg.score_thr, threshold
    try:
        yield
    finally:
        cfg.score_thr = old


def test_step(session: Session, model: Deployed) -> Any:
    """A stand-in for the ``test_step`` of mm's model that runs the file, for mm's evaluation."""

    def step(data: dict[str, Any]) -> list:
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            size = sample.metainfo.get('ori_shape', image.shape[1:])[:2]
            found = session(image.flip(0)[None], size)
            if model.kind == 'classifier':
                sample.set_pred_score(found['scores'][0]).set_pred_label(found['scores'].argmax(1))
            elif model.kind == 'segmentor':
                from mmengine.structures import PixelData

                sample.set_data(dict(pred_sem_seg=PixelData(data=found['labels'])))
            else:
                from mmengine.structures import InstanceData

                result = InstanceData(
                    bboxes=found['boxes'], scores=found['scores'], labels=found['labels']
                )
                if 'masks' in found:
                    threshold = model.cfg.mask_thr_binary
                    result.masks = paste(found['masks'], found['boxes'], size, threshold)
                sample.pred_instances = result
        return data['data_samples']

    return step
