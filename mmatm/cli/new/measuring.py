"""What a data set is like: numbers and sizes that a recipe depends on."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...data.formats import Found, Sample
from ...data.splitting import Splits


@dataclass(frozen=True)
class Measured:
    """Measurements of a data set.

    Attributes:
        found: the data set.
        splits: its samples.
    """

    found: Found
    splits: Splits

    @property
    def train(self) -> list[Sample]:
        """The training samples."""
        return self.splits['train']

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Median width and height of the training images."""
        width, height = np.median([sample.size for sample in self.train], axis=0)
        return int(width), int(height)

    @cached_property
    def objects(self) -> np.ndarray:
        """``[N, 4]``: class, width, height of each training object, longer side of its image.

        Width and height are shares of that side, which is in pixels.
        """
        rows = [
            (
                thing.label,
                thing.box[2] / max(sample.size),
                thing.box[3] / max(sample.size),
                max(sample.size),
            )
            for sample in self.train
            for thing in sample.objects
            if not thing.crowd
        ]
        return np.array(rows, np.float64).reshape(-1, 4)

    @cached_property
    def small(self) -> tuple[str, float]:
        """The class with the smallest lower quartile of sizes, and that as a share of the image."""
        sizes = np.sqrt(self.objects[:, 1] * self.objects[:, 2])
        quartiles = {
            name: np.quantile(sizes[self.objects[:, 0] == label], 0.25)
            for label, name in enumerate(self.found.classes)
            if (self.objects[:, 0] == label).any()
        }
        name = min(quartiles, key=lambda key: quartiles[key])
        return name, float(quartiles[name])

    def counts(self, split: str) -> Counter:
        """Objects, pixels or images per class."""
        total: Counter = Counter()
        for sample in self.splits[split]:
            if sample.label is not None:
                total[sample.label] += 1
            for thing in sample.objects:
                total[thing.label] += not thing.crowd
            total.update(sample.pixels)
        return total

    def empty(self, split: str) -> int:
        """Images without an object or a labeled pixel."""
        return sum(not sample.present for sample in self.splits[split])

    @cached_property
    def most_objects(self) -> int:
        """Objects on the fullest image."""
        everything = [sample for samples in self.splits.values() for sample in samples]
        return max(len(sample.objects) for sample in everything)

    def tables(self) -> str:
        """The measurements as text."""
        names = ['train', 'val', 'test']
        names = names[:2] if self.splits['test'] is self.splits['val'] else names
        rows = [['split', 'images', 'width x height', 'without labels']]
        for name in names:
            sizes = Counter(sample.size for sample in self.splits[name])
            (common, number), *others = sizes.most_common()
            text = f'{common[0]} x {common[1]}'
            if others:
                text += f' ({number / len(self.splits[name]):.0%} of {len(sizes)} sizes)'
            empty = self.empty(name)
            rows.append([name, f'{len(self.splits[name])}', text, f'{empty}'])
        what = {'segmentation': 'pixels', 'classification': 'images'}.get(
            self.found.task, 'objects'
        )
        header = ['class', *(f'{what} in {name}' for name in names)]
        boxes = what == 'objects'
        table = [
            [*header, 'train images', *(['size in pixels: 5 %', 'median', '95 %'] if boxes else [])]
        ]
        counts = {name: self.counts(name) for name in names}
        totals = {name: max(sum(counts[name].values()), 1) for name in names}
        present = Counter(label for sample in self.train for label in sample.present)
        sizes_of = np.sqrt(self.objects[:, 1] * self.objects[:, 2]) * self.objects[:, 3]
        for label, class_name in enumerate(self.found.classes):
            row = [class_name]
            for name in names:
                number = counts[name][label]
                row.append(f'{number / totals[name]:.2%}' if what == 'pixels' else f'{number}')
            row.append(f'{present[label]}')
            if boxes:
                sizes = sizes_of[self.objects[:, 0] == label]
                quantiles = np.quantile(sizes, (0.05, 0.5, 0.95)) if len(sizes) else []
                row += [f'{value:.0f}' for value in quantiles]
            table.append(row)
        return f'{aligned(rows)}\n\n{aligned(table)}'


def aligned(rows: list[list[str]]) -> str:
    """Lay out a table: the first column to the left, the others to the right."""
    widths = [max(len(row[at]) for row in rows if at < len(row)) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)]
        lines.append('  '.join([row[0].ljust(widths[0]), *cells]).rstrip())
    return '\n'.join(f'  {line}' for line in lines)
