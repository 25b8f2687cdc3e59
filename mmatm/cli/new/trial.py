"""Trying a config on the first images before a user waits for it."""

import contextlib
import io
import logging
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from ...data import DataError, check_samples
from ..arguments import read_config


def try_config(file: Path, device: str, steps: int = 8) -> tuple[float, float]:
    """Train a few steps, and predict two validation batches.

    Args:
        file: the config.
        device: ``cpu`` or ``cuda``.
        steps: to train. The median counts, because images are resized to several sizes.

    Returns:
        seconds per image of training and of prediction.

    Raises:
        DataError: an image or its annotations cannot be used, or a loss is not finite.
        CheckpointError: the pretrained weights do not fit.
        torch.cuda.OutOfMemoryError: a step takes more memory than the GPU has.
    """
    # mmengine logs every tensor that it initializes, and pycocotools prints.
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return _try(file, device, steps)
    finally:
        logging.disable(logging.NOTSET)


def _try(file: Path, device: str, steps: int) -> tuple[float, float]:
    cfg = read_config(str(file))
    init_default_scope(str(cfg.default_scope))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.to(device).train()
    batches = {name: _batches(cfg, name) for name in ('train', 'val')}
    cfg.optim_wrapper.optimizer.lr *= 0.01  # where the warm-up starts
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    times = []
    for step in range(steps):
        start = time.perf_counter()
        batch = next(batches['train'])
        losses = model.train_step(batch, wrapper)
        for name, value in losses.items():
            if not torch.isfinite(torch.as_tensor(value)).all():
                raise DataError(f'in step {step + 1} of a trial, {name} is {value}')
        times.append((time.perf_counter() - start) / len(batch['inputs']))
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            batch = next(batches['val'])
            model.val_step(batch)
            predicting = (time.perf_counter() - start) / len(batch['inputs'])
    return statistics.median(times[1:] or times), predicting  # the first step prepares the others


def _batches(cfg: Config, name: str) -> Iterator[Any]:
    """Batches of a data loader, without end and loaded in this process."""
    settings = cfg[f'{name}_dataloader'].copy()
    settings.update(num_workers=0, persistent_workers=False)
    if name == 'train' and 'drop_last' in settings:  # there may be fewer images than a batch
        settings.drop_last = False
    loader = Runner.build_dataloader(settings, seed=0)
    heads = [head for key, head in cfg.model.items() if key.endswith('_head')]
    ignored = {head.get('ignore_index', 255) for head in heads if 'ignore_index' in head}
    check_samples(loader.dataset, ignored or {255})
    while True:
        yield from loader
