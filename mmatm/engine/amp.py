"""Mixed precision, on GPUs and CPUs."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


def use_mixed_precision(settings: MutableMapping[str, Any]) -> None:
    """Change ``optim_wrapper`` of a config to train in mixed precision on this machine.

    A GPU that computes in bfloat16 (from compute capability 8.0 on) trains in it, any other in
    float16 with a dynamic loss scale, and a CPU in bfloat16. A ``dtype`` and a ``loss_scale`` that
    the config sets for a GPU are kept there.
    """
    if not torch.cuda.is_available():
        settings['type'] = CpuAmpOptimWrapper.__name__
        for name in ('dtype', 'loss_scale', 'use_fp64'):  # of a GPU
            settings.pop(name, None)
        return
    settings['type'] = GpuAmpOptimWrapper.__name__
    native = torch.version.hip or torch.cuda.get_device_capability() >= (8, 0)
    settings.setdefault('dtype', 'bfloat16' if native else 'float16')
    # bfloat16 has the range of float32. A scale of 1 still skips steps with infinite gradients.
    settings.setdefault('loss_scale', 1.0 if settings['dtype'] == 'bfloat16' else 'dynamic')


@OPTIM_WRAPPERS.register_module()
class GpuAmpOptimWrapper(AmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper``, whose boxes stay float32.

    Takes the arguments of :class:`mmengine.optim.AmpOptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast, and accumulate gradients as the base class does."""
        with super().optim_context(model), boxes_in_float32():
            yield


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Train with bfloat16 autocast on a CPU, which mmengine's ``AmpOptimWrapper`` rejects.

    Parameters, gradients and optimizer states stay float32. bfloat16 has the range of float32, so
    the loss is not scaled. Takes the arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast, and accumulate gradients as the base class does."""
        with (
            super().optim_context(model),
            boxes_in_float32(),
            torch.autocast('cpu', torch.bfloat16),
        ):
            yield


@contextmanager
def boxes_in_float32() -> Iterator[None]:
    """Make NMS and the RoI extractors compute half-precision inputs in float32.

    mmcv has no bfloat16 code for these, and autocast does not cast the inputs of its operators,
    because they bypass torch's dispatcher. The extractors would also round boxes: to bfloat16, by
    up to 4 pixels; to float16, by up to half a pixel.
    """
    with ExitStack() as stack:
        for owner, forward in _wrapped_forwards():
            stack.enter_context(patch.object(owner, 'forward', forward))
        yield


def _wrapped_forwards() -> Iterator[tuple[Any, Any]]:
    """The classes to patch, and what to put in place of their ``forward``."""
    try:
        from mmcv.ops.nms import NMSop
        from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor, SingleRoIExtractor
    except ImportError:  # segmentation needs neither
        return
    yield NMSop, staticmethod(_in_float32(NMSop.forward))
    for extractor in (SingleRoIExtractor, GenericRoIExtractor):
        yield extractor, _in_float32(extractor.forward)


def _in_float32(forward: Callable) -> Callable:
    @wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return forward(*map(_widen, args), **kwargs)

    return wrapped


def _widen(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_widen, value))
    half = torch.is_tensor(value) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value
