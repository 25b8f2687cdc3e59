"""Trying a config on the first images before a user waits for it."""

import contextlib
import io
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from ... import mm  # noqa: F401  registers ATMNet
from ...checkpoints.loading import install_reader
from ...data import check_samples


def try_config(file: Path, device: str, steps: int = 4) -> float:
    """Train a few steps and predict one validation batch; return seconds of training per image.

    Args:
        file: the config.
        device: ``cpu`` or ``cuda``.
        steps: to train. The fastest after the first counts, because other programs slow some down.

    Raises:
        DataError: an image or its annotations cannot be used.
        RuntimeError: the model cannot be built or trained.
    """
    # mmengine logs every tensor that it initializes, and pycocotools prints.
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return _try(file, device, steps)
    finally:
        logging.disable(logging.NOTSET)


def _try(file: Path, device: str, steps: int) -> float:
    cfg = Config.fromfile(str(file))
    scope = str(cfg.default_scope)
    install_reader()
    init_default_scope(scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.to(device).train()
    batches = {name: _batches(cfg, name) for name in ('train', 'val')}
    cfg.optim_wrapper.optimizer.lr *= 0.01  # where the warm-up starts
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(batches['train'])
        losses = model.train_step(batch, wrapper)
        if not all(torch.isfinite(torch.as_tensor(value)).all() for value in losses.values()):
            raise RuntimeError(f'a loss is not finite: {losses}')
        number = len(batch['inputs'])
        times.append((time.perf_counter() - start) / number)
    model.eval()
    with torch.no_grad():
        model.val_step(next(batches['val']))
    return min(times[1:] or times)


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
