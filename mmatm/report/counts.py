"""Counts by score, from which the page computes everything that depends on the threshold."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np


class Levels:
    """Equal steps of a score from 0 to 1.

    Args:
        count: number of steps; thresholds are ``0 / count`` to ``count / count``.
    """

    def __init__(self, count: int):
        self.count = count
        self.thresholds = np.arange(count + 1) / count

    def of(self, scores: Any) -> np.ndarray:
        """The highest level whose threshold each score reaches; -1 for none, or NaN."""
        scores = np.nan_to_num(np.asarray(scores, float), nan=-1)
        return np.searchsorted(self.thresholds, scores, side='right') - 1


class Counts:
    """Right and wrong predictions of each class at each level, and which classes were mixed up.

    Args:
        levels: of scores.
        num_classes: number of classes; one more stands for the background.
    """

    def __init__(self, levels: Levels, num_classes: int):
        self.levels = levels
        self.num_classes = num_classes
        self.right = np.zeros((num_classes, levels.count + 1), np.int64)
        self.wrong = np.zeros_like(self.right)
        self.positives = np.zeros(num_classes, np.int64)
        self.mixed: dict[tuple[int, int], np.ndarray] = defaultdict(
            lambda: np.zeros(levels.count + 1, np.int64)
        )

    def at_least(self) -> tuple[np.ndarray, np.ndarray]:
        """Right and wrong predictions at or above each level, ``[classes, levels + 1]``."""
        right, wrong = (np.cumsum(c[:, ::-1], 1)[:, ::-1] for c in (self.right, self.wrong))
        return right, wrong

    def best_level(self, otherwise: int) -> int:
        """The level with the highest F1 over all classes; ``otherwise`` if nothing is right."""
        right, wrong = (counts.sum(0) for counts in self.at_least())
        f1 = 2 * right / np.maximum(right + wrong + self.positives.sum(), 1)
        return int(f1.argmax()) if f1.max() > 0 else otherwise

    def to_page(self) -> dict[str, Any]:
        """Counts at or above each level; of mixed-up classes, counts at each level that occurs.

        ``mixed`` is a list of ``[truth, prediction, level, count, level, count, ...]``.
        """
        right, wrong = self.at_least()
        return {
            'positives': self.positives.tolist(),
            'right': right.tolist(),
            'wrong': wrong.tolist(),
            'mixed': [
                [*pair, *(n for level in np.flatnonzero(c) for n in (int(level), int(c[level])))]
                for pair, c in sorted(self.mixed.items())
            ],
        }


# Side of the square with an object's area, in pixels. COCO calls up to 32 small, from 96 on large.
SIZES = (0, 16, 32, 64, 96, 192, np.inf)


class Sizes:
    """Objects by size, and the level up to which each was found."""

    def __init__(self, levels: Levels):
        self.found = np.zeros((len(SIZES) - 1, levels.count + 2), np.int64)  # first: never

    def add(self, areas: Any, levels: Any) -> None:
        """Add objects of ``areas`` pixels, found at all levels up to ``levels``; -1 if never."""
        sides = np.sqrt(np.asarray(areas, float))
        np.add.at(self.found, (np.searchsorted(SIZES, sides, side='right') - 1,
                               np.asarray(levels, int) + 1), 1)  # fmt: skip

    def to_page(self) -> list[dict[str, Any]]:
        """One entry per size: ``total``, and ``found`` at each level."""
        names = [f'{a} to {b} px' for a, b in pairwise(SIZES[:-1])]
        names = [f'below {SIZES[1]} px', *names[1:], f'{SIZES[-2]} px and more']
        groups = ['small', 'small', 'medium', 'medium', 'large', 'large']
        return [
            {
                'name': name,
                'group': group,
                'total': int(row.sum()),
                'found': np.cumsum(row[:0:-1])[::-1].tolist(),
            }
            for name, group, row in zip(names, groups, self.found, strict=True)
        ]
