"""What a segmentor found in the test set, pixel by pixel."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric

from .counts import Counts, Levels, Sizes
from .images import encode, png, sides
from .work_dir import ReportError

IGNORED = 255  # on the page
SIDE = 512  # longest side of a label map on the page
_SMALLEST = 16  # regions of fewer pixels are not counted


class Segmentation(BaseMetric):
    """Counts pixels and regions by class and confidence, next to mmseg's metric.

    The confidence of a pixel is the probability of the class that it gets.
    """

    name = 'segmentation'
    levels = Levels(20)

    def __init__(self, runner: Runner, max_images: int):
        super().__init__()
        evaluator = runner.test_evaluator
        self.dataset_meta = evaluator.dataset_meta
        self.classes = list(self.dataset_meta['classes'])
        self.ignore_index = next(
            (m.ignore_index for m in evaluator.metrics if isinstance(m, IoUMetric)), 255
        )
        evaluator.metrics.append(self)
        self.counts = Counts(self.levels, len(self.classes))
        self.sizes = Sizes(self.levels)
        shape = len(self.classes), len(self.classes), self.levels.count + 1
        self.pixels = np.zeros(shape, np.int64)  # of each truth, prediction and level
        self.shown = Extremes(max_images)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """The metric itself records."""
        yield

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch."""
        for sample in data_samples:
            if 'gt_sem_seg' not in sample or 'pred_sem_seg' not in sample:
                raise ReportError('the test set has no label maps, so there is nothing to compare')
            truth = sample['gt_sem_seg']['data'].squeeze().cpu().numpy().astype(np.int64)
            found = sample['pred_sem_seg']['data'].squeeze().cpu().numpy().astype(np.int64)
            confidence = _confidence(sample['seg_logits']['data']).nan_to_num()
            level = self.levels.of(confidence.cpu().numpy())
            self._add(truth, found, level, sample['img_path'])
            self.results.append(None)  # mmengine warns about a metric without any

    def _add(self, truth: np.ndarray, found: np.ndarray, level: np.ndarray, path: str) -> None:
        classes, steps = len(self.classes), self.levels.count + 1
        valid = (truth != self.ignore_index) & (truth < classes)
        known = valid & (found < classes)  # the model may have more classes
        index = (truth[known] * classes + found[known]) * steps + level[known]
        counted = np.bincount(index, minlength=classes * classes * steps)
        self.pixels += counted.reshape(self.pixels.shape)
        confusion = counted.reshape(self.pixels.shape).sum(2)
        areas = np.bincount(truth[valid], minlength=classes)
        self.counts.positives += areas
        right = np.where(found == truth, level, -1)
        present = np.flatnonzero(areas)
        for label in present:
            self.sizes.add(*_regions(truth == label, right))
        hits = confusion.diagonal()[present]
        unions = (areas + confusion.sum(0) - confusion.diagonal())[present]
        if not len(present):
            return  # nothing but ignored pixels
        accuracy = hits.sum() / areas.sum()
        rank = float((hits / unions).mean()), float(accuracy)
        self.shown.offer(rank, path, lambda: _small_maps(truth, found, level, valid, classes))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Nothing: mmseg's metric is next to this one."""
        return {}

    def to_page(self) -> dict[str, Any]:
        """Counts per class, and the best and worst images."""
        counts, everything = self.counts, self.pixels
        counts.right[:] = everything[np.arange(len(self.classes)), np.arange(len(self.classes))]
        counts.wrong[:] = everything.sum(0) - counts.right
        for truth, found in np.argwhere(everything.sum(2)).tolist():
            counts.mixed[truth, found] = everything[truth, found]
        hits, truth, found = (
            torch.from_numpy(a).double()
            for a in (
                counts.right.sum(1),
                counts.positives,
                counts.right.sum(1) + counts.wrong.sum(1),
            )
        )
        per_class = IoUMetric.total_area_to_metrics(hits, truth + found - hits, found, truth)
        return {
            'task': self.name,
            'levels': self.levels.count,
            'start': 0,
            'classes': self.classes,
            'unit': 'pixels',
            'kinds': [
                {
                    'id': 'pixels',
                    'name': 'pixels',
                    **counts.to_page(),
                    'columns': [
                        {'name': name, 'values': (per_class[name]).tolist()}
                        for name in ('IoU', 'Acc')
                    ],
                    'curves': [self._curve(i) for i in range(len(self.classes))],
                    'sizes': self.sizes.to_page(),
                }
            ],
            'images': self._images(),
        }

    def _curve(self, label: int) -> list[list[float]]:
        """Recalls and precisions of a class from high to low thresholds."""
        right, wrong = (counts[label] for counts in self.counts.at_least())
        some = right + wrong > 0
        recall = right[some] / max(self.counts.positives[label], 1)
        precision = right[some] / (right + wrong)[some]
        return [recall[::-1].round(4).tolist(), precision[::-1].round(4).tolist()]

    def _images(self) -> list[dict[str, Any]]:
        worst, best = self.shown.sides()
        chosen = worst + best
        files = encode([path for _, path, _ in chosen])
        return [
            {
                'name': Path(path).name,
                'id': path,
                'group': 'worst' if number < len(worst) else 'best',
                'src': src,
                'width': width,
                'height': height,
                'iou': rank[0],
                **maps,
            }
            for number, ((rank, path, maps), (src, width, height)) in enumerate(
                zip(chosen, files, strict=True)
            )
        ]


def _confidence(logits: torch.Tensor) -> torch.Tensor:
    """Probability of the class that each pixel of ``[classes, H, W]`` gets, ``[H, W]``."""
    logits = logits.float()
    if len(logits) == 1:  # mmseg applied the sigmoid already
        return torch.maximum(logits[0], 1 - logits[0])
    return torch.exp(logits.amax(0) - logits.logsumexp(0))


def _regions(mask: np.ndarray, right: np.ndarray) -> tuple[list[int], list[int]]:
    """Areas of connected regions, and the level up to which half of their pixels are right."""
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas, levels = [], []
    for i in range(1, count):
        x, y, width, height, area = stats[i]
        if area >= _SMALLEST:
            box = slice(y, y + height), slice(x, x + width)
            values = right[box][numbers[box] == i]
            half = area // 2  # so many may be lower
            areas.append(int(area))
            levels.append(int(np.partition(values, half)[half]))
    return areas, levels


def _small_maps(
    truth: np.ndarray, found: np.ndarray, level: np.ndarray, valid: np.ndarray, classes: int
) -> dict[str, Any]:
    """Both label maps and the confidence as one image, and where to write the names of classes."""
    step = max(-(-max(truth.shape) // SIDE), 1)
    truth, found, level, valid = (a[::step, ::step] for a in (truth, found, level, valid))
    known = found < classes
    present = np.unique(np.concatenate([truth[valid], found[known]]))[:IGNORED]
    index = np.searchsorted(present, [truth, found]).astype(np.uint8)
    index[0][~valid] = index[1][~known] = IGNORED
    return {
        'map': png(np.dstack([index[1], level.astype(np.uint8), index[0]])),
        'present': present.tolist(),
        'names': [_places(truth, valid), _places(found, known)],
    }


def _places(labels: np.ndarray, valid: np.ndarray) -> list[list[float]]:
    """Class, x and y (as shares of the image) of the middle of its largest region, per class."""
    places = []
    for label in np.unique(labels[valid]):
        mask = ((labels == label) & valid).astype(np.uint8)
        depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        if depth[y, x] > 0.02 * max(labels.shape):  # no names on slivers
            places.append(
                [int(label), *(round(float(v), 3) for v in ((x + 0.5) / labels.shape[1],
                                                            (y + 0.5) / labels.shape[0]))]
            )  # fmt: skip
    return places


class Extremes:
    """Keeps the lowest and the highest of many items, half each.

    Args:
        count: how many to keep.
    """

    def __init__(self, count: int):
        self._lowest, self._highest = -(-count // 2), count // 2
        self._kept: list[tuple[Any, str, Any]] = []

    def offer(self, rank: Any, name: str, make: Any) -> None:
        """Keep ``make()`` if its rank is among the lowest or highest so far."""
        kept, room = self._kept, self._lowest + self._highest
        if len(kept) < room:
            kept.append((rank, name, make()))
        elif (self._lowest and rank < kept[self._lowest - 1][0]) or (
            self._highest and rank > kept[self._lowest][0]
        ):
            at = self._lowest - 1 if rank < kept[self._lowest - 1][0] else self._lowest
            kept[at] = (rank, name, make())
        kept.sort(key=lambda item: item[:2])

    def sides(self) -> tuple[list, list]:
        """The lowest, lowest first, and the highest, highest first."""
        return sides(self._kept, len(self._kept))
