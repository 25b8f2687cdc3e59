"""Run a model of mm or timm on one image, as when it is tested, and record what it samples."""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checkpoints import CheckpointError
from .capture import Capture, LookError, capture, find_trunk

RANDOM = 'random'  # in place of a checkpoint: untrained weights
MOST = 100  # instances that are kept, those with the highest scores
TOP = 5  # classes that are kept of a classifier's prediction
NOTHING = 65535  # in a label map: no class
_PANOPTIC = 1000  # mmdet's factor between classes and instances in a panoptic map


@dataclass
class Prediction:
    """What a model found, in pixels of the image that it was given.

    Args:
        kind: ``instances`` of a detector, ``labels`` of a segmentor or ``classes`` of a classifier;
            ``nothing`` without a head.
        names: of the classes.
        palette: their colours, 0 to 255.
        items: instances (``label``, ``score``, ``box``, ``polygons``), or classes (``label``,
            ``score``), the highest score first.
        labels: classes of the pixels, ``[H, W]``, :data:`NOTHING` where there is none.
    """

    kind: str
    names: list[str]
    palette: list[list[int]]
    items: list[dict[str, Any]]
    labels: np.ndarray | None = None


@dataclass
class Look:
    """One image in one model.

    Args:
        name: of the checkpoint.
        pixels: the image that the model was given, ``[H, W, 3]`` RGB uint8.
        captured: what was sampled.
        prediction: what was found.
        cams: class names to class activation maps, ``[H, W]`` from 0 to 1.
    """

    name: str
    pixels: np.ndarray
    captured: Capture
    prediction: Prediction
    cams: dict[str, np.ndarray]


class MMModel:
    """A model of mmdet, mmseg or mmpretrain, and its test pipeline.

    Args:
        cfg: its config.
        checkpoint: file, ``ema:FILE``, or :data:`RANDOM`.
        device: where it runs.
        max_size: longest side, in pixels, to which the pipeline may scale an image.

    Raises:
        LookError: the config has no ATMNet.
        CheckpointError: the checkpoint does not fit.
    """

    def __init__(self, cfg: Any, checkpoint: str, device: Any, max_size: int | None = None):
        from mmengine.registry import MODELS, init_default_scope

        from ..export.setup import build, known_classes

        self.meta: dict[str, Any] = {}
        if checkpoint == RANDOM:
            init_default_scope(cfg.get('default_scope', 'mmengine'))
            torch.manual_seed(0)
            module = MODELS.build(cfg.model)
            find_trunk(module)  # before others download their weights
            module.init_weights()
        else:
            module, self.meta = build(cfg, checkpoint)
            find_trunk(module)
        self.module = module.eval().to(device)
        self.names, palette = known_classes(cfg, self.meta)
        self.palette = palette or colours(len(self.names))
        self.pipeline = _pipeline(cfg, max_size)

    def prepare(self, path: Path) -> Any:
        """An image as a batch of one."""
        from mmengine.dataset import Compose, pseudo_collate

        data = Compose(self.pipeline)(dict(img_path=str(path), img_id=0))
        return pseudo_collate([data])

    def run(self, batch: Any) -> Any:
        """The data sample that the model predicts."""
        return self.module.test_step(batch)[0]

    def pixels(self, image: Tensor) -> np.ndarray:
        """What the backbone was given, ``[3, H, W]``, as RGB, ``[H, W, 3]`` uint8."""
        prepare = self.module.data_preprocessor
        mean, std = (getattr(prepare, name, None) for name in ('mean', 'std'))
        swaps = getattr(prepare, '_channel_conversion', getattr(prepare, 'to_rgb', False))
        pixels = _denormalize(image, mean, std)
        return pixels if swaps else pixels[..., ::-1]

    def prediction(self, sample: Any, size: tuple[int, int]) -> Prediction:
        """What the data sample holds, in pixels of the padded image of ``size`` (H, W)."""
        kind, items, labels = 'nothing', [], None
        if 'pred_instances' in sample:
            kind, items = 'instances', self._instances(sample)
        elif 'pred_sem_seg' in sample or 'pred_panoptic_seg' in sample:
            kind, labels = 'labels', _label_map(sample, size, len(self.names))
        elif 'pred_score' in sample:
            kind, items = 'classes', _best(sample.pred_score)
        return Prediction(kind, self.names, self.palette, items, labels)

    def _instances(self, sample: Any) -> list[dict[str, Any]]:
        import cv2

        found = sample.pred_instances.cpu()
        scale = np.divide(sample.img_shape[:2], sample.ori_shape[:2])[::-1]  # x, y
        items = []
        for i in found.scores.argsort(descending=True)[:MOST].tolist():
            polygons = []
            if 'masks' in found:
                mask = np.asarray(found.masks[i], np.uint8)
                outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                corners = [cv2.approxPolyDP(line, 0.7, True)[:, 0] + 0.5 for line in outlines]
                polygons = [_rounded(c * scale) for c in corners if len(c) > 2]
            items.append(
                dict(
                    label=int(found.labels[i]),
                    score=round(float(found.scores[i]), 3),
                    box=_rounded(found.bboxes[i].numpy().reshape(2, 2) * scale),
                    polygons=polygons,
                )
            )
        return items


class TimmModel:
    """A timm classifier, and its transform for evaluation.

    Args:
        name: e.g. ``atmnet_t``.
        checkpoint: file, ``ema:FILE``, or :data:`RANDOM`.
        device: where it runs.
        max_size: given, the whole image is scaled to this longest side, in pixels; None crops it
            as in evaluation.

    Raises:
        LookError: the model is no ATMNet.
        CheckpointError: the checkpoint does not fit.
    """

    def __init__(self, name: str, checkpoint: str, device: Any, max_size: int | None = None):
        import timm
        from timm.data import ImageNetInfo, resolve_model_data_config

        from ..checkpoints.loading import EMA_PREFIX, load_from_any

        weights: Mapping[str, Any] = {}
        if checkpoint != RANDOM:
            ema = checkpoint.startswith(EMA_PREFIX)
            content = load_from_any(checkpoint.removeprefix(EMA_PREFIX), 'cpu', ema)
            weights = content.get('state_dict', content)
        head = weights.get('head.fc.weight')
        classes = 0 if head is None else len(head)
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=classes)
        find_trunk(module)
        if checkpoint != RANDOM:
            try:
                module.load_state_dict(dict(weights))
            except RuntimeError as error:
                raise CheckpointError(f'{checkpoint}: {" ".join(str(error).split())}') from None
        self.module = module.eval().to(device)
        self.device, self.max_size = device, max_size
        self.config = resolve_model_data_config(module)
        labels = ImageNetInfo()
        self.names = [
            labels.index_to_description(i) if classes == 1000 else str(i) for i in range(classes)
        ]
        self.palette = colours(classes)

    def prepare(self, path: Path) -> Tensor:
        """An image as a batch of one, ``[1, 3, H, W]``."""
        from timm.data import create_transform

        with Image.open(path) as file:
            image = file.convert('RGB')
        config = self.config
        if self.max_size:
            ratio = self.max_size / max(image.size)
            image = image.resize([max(round(side * ratio), 1) for side in image.size])
            config = {**config, 'input_size': (3, *image.size[::-1]), 'crop_pct': 1.0}
        return create_transform(**config)(image).unsqueeze(0).to(self.device)

    def run(self, batch: Any) -> Any:
        """The logits that the model predicts."""
        return self.module(batch)[0]

    def pixels(self, image: Tensor) -> np.ndarray:
        """What the model was given, ``[3, H, W]``, as RGB, ``[H, W, 3]`` uint8."""
        mean, std = (image.new_tensor(self.config[key]).mul(255) for key in ('mean', 'std'))
        return _denormalize(image, mean.view(3, 1, 1), std.view(3, 1, 1))

    def prediction(self, logits: Tensor, size: tuple[int, int]) -> Prediction:
        """The classes with the highest scores."""
        if not self.names:
            return Prediction('nothing', [], [], [])
        return Prediction('classes', self.names, self.palette, _best(logits.softmax(0)))


def look(model: MMModel | TimmModel, path: Path, name: str) -> tuple[Look, Any]:
    """Run a model once on an image; what it sampled and found, and the batch that it was given.

    Args:
        model: the model.
        path: image file.
        name: of the checkpoint.

    Raises:
        LookError: the image cannot be read or is too small, or the model cannot be looked into.
    """
    try:
        batch = model.prepare(path)
    except Exception as error:  # what cv2, Pillow and pipelines raise has no common type
        raise LookError(f'{path} cannot be read as an image: {error}') from None
    try:
        with torch.no_grad(), capture(model.module) as captured:
            raw = model.run(batch)
    except LookError:
        raise
    except (RuntimeError, ValueError) as error:  # too small for a head, or too large for the memory
        reason = str(error).split('\n')[0]
        raise LookError(
            f'the model cannot run on {path}: {reason}; another --max-size may help'
        ) from error
    pixels = model.pixels(captured.image)
    prediction = model.prediction(raw, pixels.shape[:2])
    return Look(name, pixels, captured, prediction, {}), batch


def colours(count: int) -> list[list[int]]:
    """Colours of classes without a palette, 0 to 255."""
    hues = (0.618 * i % 1 for i in range(count))
    return [[int(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.7, 0.9)] for hue in hues]


def _pipeline(cfg: Any, max_size: int | None) -> list[dict[str, Any]]:
    """The test pipeline for an image alone, which scales to ``max_size`` at most."""
    from ..data import first_test_set

    dataset = first_test_set(cfg)
    steps = [dict(s) for s in dataset['pipeline'] if 'Annotations' not in str(s['type'])]
    for step in steps:
        if max_size and 'Resize' in str(step['type']) and 'scale' in step:
            scale = step['scale']
            sides = (scale,) if isinstance(scale, int) else scale
            limited = tuple(min(side, max_size) for side in sides)
            step['scale'] = limited[0] if isinstance(scale, int) else limited
    return steps


def _denormalize(image: Tensor, mean: Tensor | None, std: Tensor | None) -> np.ndarray:
    if mean is not None and std is not None:
        image = image * std + mean
    return image.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def _label_map(sample: Any, size: tuple[int, int], classes: int) -> np.ndarray:
    if 'pred_panoptic_seg' in sample:
        found = sample.pred_panoptic_seg.sem_seg % _PANOPTIC
    else:
        found = sample.pred_sem_seg.data
    found = found[0].cpu().numpy().astype(np.uint16)
    found[found >= max(classes, 1)] = NOTHING
    height, width = sample.img_shape[:2]
    labels = np.full(size, NOTHING, np.uint16)
    resized = Image.fromarray(found).resize((width, height), Image.Resampling.NEAREST)
    labels[:height, :width] = np.asarray(resized)
    return labels


def _best(scores: Tensor) -> list[dict[str, Any]]:
    values, indices = scores.cpu().topk(min(TOP, len(scores)))
    return [
        dict(label=label, score=round(score, 3))
        for label, score in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(v), 1) for v in values.ravel()]
