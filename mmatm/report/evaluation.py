"""Run the test set once with mm's own runner and metrics, and keep what the page shows."""

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from numbers import Real
from typing import Any, NamedTuple, Protocol

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoints.loading import load_whole_model
from ..cli.arguments import make_runner
from .work_dir import ReportError


class Task(Protocol):
    """What a module for one task provides."""

    def __init__(self, runner: Runner, max_images: int):
        """Prepare the runner's evaluator."""

    def recording(self) -> AbstractContextManager:
        """Watch the evaluation meanwhile."""

    def to_page(self) -> dict[str, Any]:
        """What was found, for the page."""


class Evaluation(NamedTuple):
    """Results of a test set.

    Attributes:
        metrics: what the test evaluator returned.
        content: what the task adds to the page.
        metainfo: of the test set.
        meta: of the checkpoint.
        parameters: number per part of the model.
        seconds: that the model took for each batch, without loading data and computing metrics.
        num_images: in the test set.
        memory: peak in bytes, of the GPU or else of this process.
        device: that the model ran on.
    """

    metrics: dict[str, float]
    content: dict[str, Any]
    metainfo: dict[str, Any]
    meta: dict[str, Any]
    parameters: dict[str, int]
    seconds: list[float]
    num_images: int
    memory: int
    device: str


def evaluate(cfg: Config, checkpoint: str, max_images: int) -> Evaluation:
    """Evaluate a checkpoint on the test set of its config.

    Args:
        cfg: the config; its work directory is replaced by a temporary one.
        checkpoint: file, or ``ema:`` and a file.
        max_images: how many test images to show.

    Raises:
        ReportError: the task or its data is not one that a report can show.
        CheckpointError: the checkpoint does not fit the config.
    """
    task_type = _task(cfg.get('default_scope'))
    for name in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if not cfg.get(name):
            raise ReportError(f'the config must name a test set, but has no {name}')
    cfg.load_from, cfg.resume, cfg.launcher = checkpoint, False, 'none'
    # Kept workers end with the garbage collector, which waits five seconds for them.
    cfg.test_dataloader.persistent_workers = False
    if cfg.get('visualizer'):  # others may write to a server
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = make_runner(cfg)
        load_whole_model(runner.model, checkpoint)  # the runner accepts any
        meta = _Meta()
        runner.register_hook(meta)
        task = task_type(runner, max_images)
        seconds: list[float] = []
        runner.model.test_step = _timed(runner.model.test_step, seconds)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with task.recording():
            metrics = runner.test()
        device = next(runner.model.parameters()).device
        parameters = {
            name: sum(p.numel() for p in part.parameters())
            for name, part in runner.model.named_children()
        }
        content = task.to_page()
    return Evaluation(
        metrics={name: float(v) for name, v in metrics.items() if isinstance(v, Real)},
        content=content,
        metainfo=dict(runner.test_dataloader.dataset.metainfo),
        meta=meta.found,
        parameters={name: count for name, count in parameters.items() if count},
        seconds=seconds,
        num_images=len(runner.test_dataloader.dataset),
        memory=_peak_memory(device),
        device=torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU',
    )


def _task(scope: str | None) -> type[Task]:
    if scope == 'mmdet':
        from .detection import Detection

        return Detection
    if scope == 'mmseg':
        from .segmentation import Segmentation

        return Segmentation
    if scope == 'mmpretrain':
        from .classification import Classification

        return Classification
    raise ReportError(
        f'the config must have the default_scope mmdet, mmseg or mmpretrain, but has {scope!r}'
    )


class _Meta(Hook):
    """Keeps what a checkpoint says about itself."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.found = dict(checkpoint.get('meta') or {})


def _timed(step: Callable, seconds: list[float]) -> Callable:
    def run(data: Any) -> Any:
        start = time.perf_counter()
        outputs = step(data)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        return outputs

    return run


def _peak_memory(device: torch.device) -> int:
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024
