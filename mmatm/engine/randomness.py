"""Randomness that depends on where training is, not on how it got there.

mmengine seeds every generator once, when a process starts, so a resumed run draws other numbers
than the one it continues. Here each picture that is loaded, in whichever process, and each step is
seeded from the run's seed and its own number.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

_STEP, _PICTURE = 0, 1  # what a seed is for


def seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seed Python's, NumPy's and torch's generators for one step of one process."""
    _seed_all(_STEP, seed, rank, iteration)


def _seed_all(*numbers: int) -> None:
    first, second = np.random.SeedSequence(numbers).generate_state(2).tolist()
    random.seed(first << 32 | second)
    np.random.seed(first)
    torch.manual_seed(first << 32 | second)


class Draw(int):
    """The index of a picture, and how its augmentation is to be seeded.

    Attributes:
        numbers: what the seed is made from; None if the picture is of a step that was trained on
            before, so that it need not be loaded.
    """

    numbers: tuple[int, ...] | None


@cache
def _numbered(base: Any) -> Any:
    """A subclass of a sampler's class that yields :class:`Draw` in place of ``int``."""

    class Numbered(base):
        data_epoch = 0
        drawn = 0  # in this epoch
        trained = 0  # of these, before training was resumed

        def __iter__(self) -> Iterator[Draw]:
            for index in super().__iter__():
                draw = Draw(index)
                draw.numbers = None
                if self.drawn >= self.trained:
                    draw.numbers = (self.data_seed, self.data_rank, self.data_epoch, self.drawn)
                self.drawn += 1
                yield draw

        if hasattr(base, 'skip'):  # OneDL's mmengine

            def skip(self, num_samples: int) -> None:
                super().skip(num_samples)
                self.drawn = num_samples

    return Numbered


def _load(dataset: Dataset[Any], draws: Sequence[int]) -> list[Any]:
    """The pictures of one batch; None for those that were trained on before."""
    items = []
    for draw in draws:
        numbers = getattr(draw, 'numbers', ())
        if numbers:
            _seed_all(_PICTURE, *numbers)
        items.append(None if numbers is None else dataset[int(draw)])
    return items


def number_draws(loader: DataLoader, seed: int, rank: int) -> Any:
    """Make ``loader``'s augmentation a function of ``seed``, ``rank`` and the picture's number.

    To be called before the loader is iterated.

    Returns:
        The loader's sampler, now with ``data_epoch``, ``drawn`` and ``trained``; its order is that
        of ``seed``.
    """
    sampler: Any = sampler_of(loader)
    dataset: Any = loader.dataset
    if not hasattr(sampler, 'data_seed'):
        sampler.__class__ = _numbered(type(sampler))
    if hasattr(sampler, 'seed'):
        sampler.seed = seed
    sampler.data_seed, sampler.data_rank = seed, rank
    # torch's loaders ask a dataset for a whole batch at once if it has this method.
    dataset.__getitems__ = partial(_load, dataset)
    return sampler


def sampler_of(loader: DataLoader) -> Any:
    """The sampler of single pictures, which a sampler of batches may hold."""
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)
