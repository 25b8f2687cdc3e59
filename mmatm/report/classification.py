"""What a classifier made of the test set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner

from .counts import Counts, Levels
from .images import encode, sides
from .work_dir import ReportError

_GUESSES = 5  # classes per image on the page


class Classification(BaseMetric):
    """Keeps the scores of each image, next to mmpretrain's metrics."""

    name = 'classification'
    levels = Levels(100)

    def __init__(self, runner: Runner, max_images: int):
        super().__init__()
        self.max_images = max_images
        self.dataset_meta = runner.test_evaluator.dataset_meta
        self.rows: list[tuple[np.ndarray, int, str | None]] = []  # scores, truth, file
        runner.test_evaluator.metrics.append(self)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """The metric itself records."""
        yield

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the scores of a batch."""
        for sample in data_samples:
            truth = sample.get('gt_label')
            if truth is None or 'pred_score' not in sample or truth.numel() != 1:
                raise ReportError(
                    'a report of a classifier needs scores and exactly one label per test image'
                )
            scores = sample['pred_score'].float().nan_to_num().cpu().numpy()
            self.rows.append((scores, int(truth), sample.get('img_path')))
            self.results.append(None)  # mmengine warns about a metric without any

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Nothing: mmpretrain's metrics are next to this one."""
        return {}

    def to_page(self) -> dict[str, Any]:
        """Counts per class, and the surest right and wrong images."""
        scores = np.stack([row[0] for row in self.rows])
        truth = np.array([row[1] for row in self.rows])
        found = scores.argmax(1)
        level = self.levels.of(scores.max(1))
        classes = list(self.dataset_meta.get('classes') or ())
        classes += map(str, range(len(classes), scores.shape[1]))  # of the model alone
        counts = Counts(self.levels, len(classes))
        np.add.at(counts.positives, truth, 1)
        for counted, rows in ((counts.right, found == truth), (counts.wrong, found != truth)):
            np.add.at(counted, (found[rows], level[rows]), 1)
        for pair in zip(truth.tolist(), found.tolist(), level.tolist(), strict=True):
            counts.mixed[pair[:2]][pair[2]] += 1
        predicted = counts.right.sum(1) + counts.wrong.sum(1)
        right = counts.right.sum(1)
        with np.errstate(invalid='ignore'):  # a class without images, or never predicted
            columns = {
                'F1': 2 * right / (predicted + counts.positives),
                'precision': right / predicted,
                'recall': right / counts.positives,
            }
        return {
            'task': self.name,
            'levels': self.levels.count,
            'start': 0,
            'classes': classes,
            'unit': 'images',
            'kinds': [
                {
                    'id': 'images',
                    'name': 'images',
                    **counts.to_page(),
                    'columns': [{'name': n, 'values': v.tolist()} for n, v in columns.items()],
                    'curves': [self._curve(scores[:, i], truth == i) for i in range(len(classes))],
                    'sizes': [],
                }
            ],
            'images': self._images(scores, found == truth),
        }

    def _curve(self, scores: np.ndarray, is_class: np.ndarray) -> list[list[float]]:
        """Recalls and precisions of one class against all others, from high to low thresholds."""
        level = self.levels.of(scores)
        yes, no = (
            np.cumsum(np.bincount(level[rows], minlength=self.levels.count + 1)[::-1])
            for rows in (is_class, ~is_class)
        )
        some = yes + no > 0
        recall, precision = yes[some] / max(is_class.sum(), 1), yes[some] / (yes + no)[some]
        return [recall.round(4).tolist(), precision.round(4).tolist()]

    def _images(self, scores: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
        order = np.argsort(np.where(right, 1, -1) * scores.max(1), kind='stable').tolist()
        order = [i for i in order if self.rows[i][2]]  # CIFAR has no files
        worst, best = sides(order, self.max_images)
        chosen = worst + best
        paths = [str(self.rows[i][2]) for i in chosen]
        files = encode(paths)
        return [
            {
                'name': Path(path).name,
                'id': path,
                'group': 'worst' if number < len(worst) else 'best',
                'src': src,
                'width': width,
                'height': height,
                'truth': self.rows[i][1],
                'guesses': [
                    [int(c), round(float(scores[i, c]), 4)]
                    for c in np.argsort(-scores[i], kind='stable')[:_GUESSES]
                ],
                'level': int(self.levels.of(scores[i].max())),
            }
            for number, (i, path, (src, width, height)) in enumerate(
                zip(chosen, paths, files, strict=True)
            )
        ]
