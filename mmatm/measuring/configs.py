"""Speed, memory and size of the models of any configs, and the speed of their data loading."""

import copy
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..checkpoints.loading import load_whole_model
from ..data import check_paths
from ..engine.amp import CpuAmpOptimWrapper, boxes_in_float32, use_mixed_precision
from .flops import SHAPES, complexity
from .models import build, quiet, random_batch, set_shape
from .timing import Comparison, measure


@dataclass
class Options:
    """What is measured, and how.

    Attributes:
        shape: height and width of the images; None for the usual ones of each package.
        batch: images per call of inference.
        train_batch: images per training step. More than one, or a BatchNorm that pools all pixels
            fails.
        device: ``'cpu'`` or ``'cuda'``.
        dtype: float32, or the dtype of autocast.
        rounds: how often each call is timed, after one that is not.
        parts: of ``'inference'``, ``'train'`` and ``'data'``.
    """

    shape: tuple[int, int] | None = None
    batch: int = 1
    train_batch: int = 2
    device: str = 'cpu'
    dtype: torch.dtype = torch.float32
    rounds: int = 7
    parts: tuple[str, ...] = ('inference', 'train', 'data')


class Subject:
    """One config with a model and the calls to time.

    Args:
        name: as the tables show it.
        cfg: the config, whose model may load weights from files.
        options: how to measure.
        checkpoint: file to load into the model, if any.

    Raises:
        ValueError: the model cannot be built. The message is one sentence.
    """

    def __init__(self, name: str, cfg: Config, options: Options, checkpoint: str | None = None):
        self.name, self.cfg, self.options = name, copy.deepcopy(cfg), options
        usual = SHAPES.get(cfg.get('default_scope'), SHAPES['mmseg'])
        self.shape = options.shape or usual
        if self.cfg.get('data_preprocessor'):  # as mmengine's runner does
            self.cfg.model.setdefault('data_preprocessor', self.cfg.data_preprocessor)
        set_shape(self.cfg.model, *self.shape)
        self.checkpoint = checkpoint

    def build(self) -> None:
        """Build the model."""
        with self._explained('building its model'):
            self.model: Any = build(self.cfg)
        if self.checkpoint:
            with self._explained(f'loading {self.checkpoint}'), quiet():
                load_whole_model(self.model, self.checkpoint)
        self.model.to(self.options.device)

    def size(self) -> dict[str, int]:
        """Parameters and multiply-adds per image, as :func:`mmatm.measuring.flops.complexity`."""
        with self._explained('counting its FLOPs'), quiet():
            return complexity(self.cfg, *self.shape)

    def inference(self) -> Callable[[], None]:
        """The call of one batch, from images in memory to results."""
        data = random_batch(self.model, self.shape, self.options.batch)
        self.model.eval()

        def call() -> None:
            with self._explained('inference'), torch.inference_mode(), self._autocast():
                self.model.test_step(data)

        return call

    def training_step(self) -> Callable[[], None]:
        """The call of one step: loss, gradients and optimizer, as the config sets it.

        The learning rate is 0. The optimizer does the same work, and all steps start from the same
        weights, so that random labels cannot make the loss diverge.
        """
        data = random_batch(self.model, self.shape, self.options.train_batch)
        with self._explained('building its optimizer'), quiet(), self._scope():
            self.optimizer = build_optim_wrapper(self.model, self._optim_settings())
        for group in self.optimizer.param_groups:
            group['lr'] = 0.0
        MessageHub.get_current_instance().update_info('iter', 0)  # which YOLOX asks for
        self.model.train()

        def call() -> None:
            with self._explained('a training step'):
                self.model.train_step(data, self.optimizer)

        return call

    def mebibytes(self, part: str) -> float:
        """Memory of the weights and, in training, of the optimizer's state."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        if part == 'train':
            for state in self.optimizer.optimizer.state.values():
                tensors += [value for value in state.values() if torch.is_tensor(value)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20

    def data(self) -> dict[str, float]:
        """Time of loading training images: decoding and the whole pipeline, without the model.

        Raises:
            DataError: the data is not there.
            ValueError: it cannot be loaded.
        """
        check_paths(self.cfg, 'train_dataloader')
        with self._explained('data loading'), quiet(), self._scope():
            loader = Runner.build_dataloader(copy.deepcopy(self.cfg.train_dataloader), seed=0)
            batches = _endless(loader)
            if not len(loader):
                raise ValueError('it has no batch')
            # What workers have loaded ahead would count as loaded in no time.
            for _ in range(1 + loader.num_workers * (loader.prefetch_factor or 0)):
                next(batches)
            images, rounds = 0, self.options.rounds * max(1, loader.num_workers)
            start = time.perf_counter()
            for _ in range(rounds):
                images += len(next(batches)['inputs'])
            seconds = time.perf_counter() - start
            batches.close()
        return dict(
            seconds=seconds / rounds,
            images_per_second=images / seconds,
            images_per_batch=images / rounds,
            workers=loader.num_workers,
        )

    def _optim_settings(self) -> dict:
        settings = copy.deepcopy(self.cfg.optim_wrapper)
        settings.pop('accumulative_counts', None)
        for name in ('dtype', 'loss_scale', 'use_fp64'):  # of mixed precision
            settings.pop(name, None)
        if self.options.dtype == torch.float32:
            settings['type'] = 'OptimWrapper'
        elif self.options.device == 'cpu':
            settings['type'] = CpuAmpOptimWrapper.__name__
        else:
            settings['dtype'] = str(self.options.dtype).removeprefix('torch.')
            use_mixed_precision(settings)
        return settings

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        if self.options.dtype == torch.float32:
            yield
            return
        with boxes_in_float32(), torch.autocast(self.options.device, self.options.dtype):
            yield

    def _scope(self) -> Any:
        return DefaultScope.overwrite_default_scope(self.cfg.get('default_scope'))

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Say which config failed, and in what, in one sentence."""
        try:
            yield
        except Exception as error:  # any model can raise anything
            reason = (str(error).strip().splitlines() or [''])[0]
            size = '{} x {}'.format(*self.shape)
            raise ValueError(
                f'{self.name} cannot be measured at {size}: {what} raised '
                f'{type(error).__name__}: {reason}'
            ) from error


def _endless(loader: Iterable) -> Generator[Any, None, None]:
    while True:
        yield from loader


def measure_configs(
    subjects: list[Subject], options: Options, note: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Measure all configs, interleaved where a model runs.

    Args:
        subjects: the configs.
        options: what to measure, and how.
        note: called with a sentence about whatever cannot be measured while the rest can.

    Returns:
        for each config ``parameters``, ``flops`` and ``flops_computed`` (multiply-adds per image);
        for each part a dictionary of figures: ``seconds`` (median), ``least``, ``greatest``,
        ``cpu_seconds``, ``images_per_second``, and ``mebibytes`` (weights, optimizer state, and the
        peak of one call). What cannot be measured is missing.

    Raises:
        ValueError: a model fails. The message is one sentence.
    """
    results: dict[str, dict[str, Any]] = {s.name: {} for s in subjects}
    models = [part for part in options.parts if part != 'data']
    for subject in subjects:
        result = results[subject.name]
        result['shape'] = list(subject.shape)
        if not models:
            continue
        subject.build()
        result['parameters'] = sum(p.numel() for p in subject.model.parameters())
        try:
            size = subject.size()
            result.update(flops=size['flops'], flops_computed=size['flops_computed'])
        except ValueError as error:
            note(str(error))
    for part in models:
        make = Subject.inference if part == 'inference' else Subject.training_step
        calls = {subject.name: make(subject) for subject in subjects}
        batch = options.batch if part == 'inference' else options.train_batch
        figures = measure(
            Comparison(part, calls, images=batch, memory=True), options.rounds, options.device
        )
        for subject in subjects:
            found = figures[subject.name]
            found['mebibytes'] += subject.mebibytes(part)
            if math.isnan(found['mebibytes']):
                del found['mebibytes']
            results[subject.name][part] = found
    if 'data' in options.parts:
        for subject in subjects:
            try:
                results[subject.name]['data'] = subject.data()
            except ValueError as error:
                note(f'data loading of {subject.name} is not measured: {error}')
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table of what :func:`measure_configs` returned.

    Ratios compare the time of each config with that of the first.
    """
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ('parameters', partial(_figure, 'parameters', 1e-6, '{:.1f} M')),
        ('FLOPs', partial(_figure, 'flops', 1e-9, '{:.1f} G')),
    ]
    first = next(iter(results.values()))
    for part, title in (('inference', 'inference'), ('train', 'training step')):
        columns += [
            (title, partial(_time, part, first)),
            ('images/s', partial(_figure, f'{part}.images_per_second', 1, '{:.3g}')),
            ('memory', partial(_figure, f'{part}.mebibytes', 1, '{:.0f} MiB')),
        ]
    columns.append(('data loading', _loading))
    rows = [[name, *(cell(result) for _, cell in columns)] for name, result in results.items()]
    header = ['config', *(title for title, _ in columns)]
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[row[i] or '-' for i in kept] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ['-' * width for width in widths])
    return '\n'.join(
        f'| {" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |'
        for line in lines
    )


def _figure(path: str, scale: float, form: str, result: dict[str, Any]) -> str:
    value: Any = result
    for key in path.split('.'):
        value = (value or {}).get(key)
    return '' if value is None else form.format(scale * value)


def _time(part: str, first: dict[str, Any], result: dict[str, Any]) -> str:
    if part not in result:
        return ''
    seconds = result[part]['seconds']
    return f'{1e3 * seconds:.0f} ms ({seconds / first[part]["seconds"]:.2f})'


def _loading(result: dict[str, Any]) -> str:
    if 'data' not in result:
        return ''
    data = result['data']
    workers = data['workers']
    return f'{data["images_per_second"]:.3g} images/s, {workers} worker{"s" * (workers != 1)}'


def distinct(files: Iterable[str], checkpoints: Iterable[str | None]) -> list[str]:
    """A different name for each config: of its file, with its checkpoint or a number if needed."""
    stems = [Path(file).stem for file in files]
    found: list[str] = []
    for stem, checkpoint in zip(stems, checkpoints, strict=True):
        name = stem
        if stems.count(stem) > 1 and checkpoint:
            name = f'{stem} ({Path(checkpoint).name})'
        count = sum(other.split(' #')[0] == name for other in found)
        found.append(f'{name} #{count + 1}' if count else name)
    return found
