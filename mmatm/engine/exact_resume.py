"""Randomness that depends on where training is, not on how it got there.

mmengine seeds all generators once, when a process starts. A resumed run therefore draws other
numbers than the run it continues. Here every image, in whichever process it is loaded, and every
step gets a seed computed from the run's seed and its own number.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, RUNNERS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset, Sampler

from .compiling import compile_networks

_STEP, _IMAGE = 0, 1  # what a seed is for


@RUNNERS.register_module()
class ExactRunner(Runner):
    """mmengine's ``Runner``, but a resumed run trains exactly as one that was never interrupted.

    Set ``runner_type='ExactRunner'`` in a config. :class:`ExactSampler` and :class:`ExactDataset`
    wrap the sampler and the dataset of the training data, and :class:`ExactResumeHook` seeds the
    steps. Images of earlier steps are skipped without loading them. In the runtime information of
    the message hub, checkpoints store ``data_seed`` and, in epoch-based training, ``data_epoch``.
    """

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop with wrapped data; see :class:`mmengine.runner.Runner`."""
        data: Any = self._train_dataloader
        if isinstance(data, dict) and data['dataset']['type'] != ExactDataset.__name__:
            data['dataset'] = dict(type=ExactDataset.__name__, dataset=data['dataset'])
            data['sampler'] = dict(type=ExactSampler.__name__, sampler=data['sampler'])
            self.register_hook(ExactResumeHook())
        return super().build_train_loop(loop)

    def val(self) -> dict:
        """Evaluate on the validation data; see :class:`mmengine.runner.Runner`."""
        self._maybe_compile('val_step')
        return super().val()

    def test(self) -> dict:
        """Evaluate on the test data; see :class:`mmengine.runner.Runner`."""
        self._maybe_compile('test_step')
        return super().test()

    def _maybe_compile(self, target: str) -> None:
        """Compile networks, not the step that is the ``target``, which mmengine would compile."""
        options = self.cfg.get('compile') or False
        if options is not False:
            names = compile_networks(self.model, **({} if options is True else options))
            self.logger.info(f'Compiling {", ".join(names)}, which makes the first steps slow')


class Draw(int):
    """The index of an image, with the seed of its augmentation.

    Attributes:
        numbers: numbers that the seed is computed from.
    """

    numbers: tuple[int, ...]


@DATA_SAMPLERS.register_module()
class ExactSampler(Sampler):
    """A sampler that numbers the images it draws.

    Args:
        dataset: dataset to sample from, passed by mmengine.
        sampler: config of the wrapped sampler, e.g. ``dict(type='InfiniteSampler')``.
        seed: seed of its order, passed by mmengine.

    Attributes:
        data_seed, data_rank, data_epoch: numbers that go into every seed.
        drawn: number of images drawn in this epoch.
    """

    def __init__(self, dataset: Dataset, sampler: dict, seed: int | None = None):
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.data_seed = seed or 0
        self.data_rank = get_rank()
        self.data_epoch = self.drawn = 0

    def __iter__(self) -> Iterator[Draw]:
        for index in self.sampler:
            draw = Draw(index)
            draw.numbers = (self.data_seed, self.data_rank, self.data_epoch, self.drawn)
            self.drawn += 1
            yield draw

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'sampler':  # not set yet
            raise AttributeError(name)
        return getattr(self.sampler, name)


@DATASETS.register_module()
class ExactDataset(Dataset):
    """A dataset whose augmentation is seeded by the :class:`Draw` that indexes it.

    Args:
        dataset: the wrapped dataset or its config. Its attributes are available here as well.
    """

    def __init__(self, dataset: Any):
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    def __getitem__(self, index: int) -> Any:
        """Return a sample."""
        if isinstance(index, Draw):
            _seed_all(_IMAGE, *index.numbers)
        return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @property
    def pipeline(self) -> Any:
        """The pipeline of the dataset, which hooks may replace."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        self.dataset.pipeline = pipeline


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Seed every step and continue the numbering of images; added by :class:`ExactRunner`."""

    def before_train(self, runner: Runner) -> None:
        """Restore the seed of the resumed run."""
        sampler: Any = _sampler_of(runner.train_dataloader)
        own = getattr(sampler, 'seed', runner.seed)
        self._seed = int(runner.message_hub.get_info('data_seed', own))
        runner.message_hub.update_info('data_seed', self._seed)
        self._sampler = sampler
        sampler.data_seed = self._seed
        if hasattr(sampler, 'seed'):
            sampler.sampler.seed = self._seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Number the images of each epoch from 0, and skip those before the resumed step."""
        self._sampler.data_epoch, self._sampler.drawn = runner.epoch, 0
        stream: Any = getattr(runner.train_loop, 'dataloader_iterator', None)
        if stream is not None:
            self._resume_stream(runner, stream)
            return
        epoch, start = runner.message_hub.get_info('data_epoch', (None, 0))
        if epoch == runner.epoch:  # resumed from a checkpoint that was saved inside this epoch
            loader = runner.train_dataloader
            self._skip(loader, min(runner.iter - start, len(loader)))
        else:
            runner.message_hub.update_info('data_epoch', [runner.epoch, runner.iter])

    def _resume_stream(self, runner: Runner, stream: Any) -> None:
        """Let the stream of iteration-based training begin at the step of the runner."""
        loader: Any = runner.train_dataloader
        loop: Any = runner.train_loop
        # Unless told otherwise, mmengine draws all earlier images to find its position.
        steps = 0 if getattr(loop, 'fast_forward_on_resume', False) else runner.iter
        eager = getattr(stream, '_iterator', None) is not None
        if not steps and not eager:
            return
        if eager:  # OpenMMLab's mmengine has drawn before any hook ran
            inner = self._sampler.sampler
            if hasattr(inner, 'indices'):
                inner.__init__(inner.dataset, shuffle=inner.shuffle, seed=inner.seed)
            loader._iterator = None  # or persistent workers would continue with what they were sent
        passes = self._skip(loader, steps)
        renewed = type(stream)(loader)
        renewed._epoch = passes
        loop.dataloader_iterator = _ResumedStream(renewed, steps) if steps else renewed

    def _skip(self, loader: DataLoader, steps: int) -> int:
        """Begin after some batches, and return how many passes over the data these complete."""
        name = 'sampler' if loader.batch_sampler is None else 'batch_sampler'
        source: Any = getattr(loader, name)
        batches, passes = iter(source), 0
        for _ in range(steps):
            if next(batches, None) is None:
                passes += 1
                if hasattr(self._sampler, 'set_epoch'):
                    self._sampler.set_epoch(passes)
                batches = iter(source)
                next(batches)
        # A loader rejects another sampler as an attribute.
        loader.__dict__[name] = _BegunBatches(source, batches)
        return passes

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the random numbers of this step."""
        _seed_all(_STEP, self._seed, get_rank(), runner.iter)


class _BegunBatches:
    """A batch sampler, the first pass of which has begun."""

    def __init__(self, batch_sampler: Any, begun: Iterator):
        self.batch_sampler = batch_sampler
        self._begun: Iterator | None = begun

    def __iter__(self) -> Iterator:
        # Lazy, because the iterator of a loader with workers calls this twice.
        begun, self._begun = self._begun, None
        yield from self.batch_sampler if begun is None else begun

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'batch_sampler':  # not set yet
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)


class _ResumedStream:
    """A stream that is past the first batches already, however mmengine tries to skip them."""

    def __init__(self, stream: Any, steps: int):
        self._stream = stream
        self._left = 0 if hasattr(stream, 'skip_iter') else steps

    def skip_iter(self, steps: int) -> None:
        pass

    def __next__(self) -> Any:
        if self._left:  # OpenMMLab's mmengine
            self._left -= 1
            return None
        return next(self._stream)


def _sampler_of(loader: DataLoader) -> Any:
    """The sampler of images, which may be inside a batch sampler."""
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)


def _seed_all(*numbers: int) -> None:
    """Seed the generators of Python, NumPy and torch."""
    first, second = np.random.SeedSequence(numbers).generate_state(2).tolist()
    random.seed(first << 32 | second)
    np.random.seed(first)
    torch.manual_seed(first << 32 | second)
