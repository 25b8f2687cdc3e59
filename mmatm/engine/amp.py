"""Mixed precision on CPUs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


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
    """Make NMS and the RoI extractors compute bfloat16 inputs in float32.

    mmcv has no bfloat16 code for CPUs, and autocast does not cast the inputs of its operators,
    because they bypass torch's dispatcher. The extractors would also round boxes to bfloat16, by up
    to 4 pixels.
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
    return value.float() if torch.is_tensor(value) and value.dtype == torch.bfloat16 else value
