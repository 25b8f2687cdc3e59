"""Mixed precision on a CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Training under bfloat16 autocast on a CPU, which mmengine's ``AmpOptimWrapper`` refuses.

    Parameters, gradients and optimizer stay float32; bfloat16 has the range of float32, so no loss
    is scaled. Takes the arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        keep_mmcv_in_float32()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and what the base class does to accumulate gradients."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


@cache
def keep_mmcv_in_float32() -> None:
    """Let NMS and the RoI extractors take float32 for bfloat16.

    mmcv has no bfloat16 code for a CPU, and being outside torch's dispatcher it is not cast for by
    autocast; the extractors would moreover round boxes to bfloat16, up to 4 pixels.
    """
    try:
        from mmcv.ops.nms import NMSop
        from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor, SingleRoIExtractor
    except ImportError:  # segmentation needs neither
        return
    NMSop.forward = staticmethod(_in_float32(NMSop.forward))
    for extractor in (SingleRoIExtractor, GenericRoIExtractor):
        extractor.forward = _in_float32(extractor.forward)


def _in_float32(forward: Callable) -> Callable:
    @wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return forward(*map(_widen, args), **kwargs)

    return wrapped


def _widen(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_widen, value))
    return value.float() if torch.is_tensor(value) and value.dtype == torch.bfloat16 else value
