"""Layers that an exporter cannot write for every size, computed in another way while it traces."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.mixer import ActiveTokenMixer
from . import ExportError
from .sampling import gather

Sample = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def plain_layers(
    model: nn.Module, height: int, width: int, sample: Sample = gather
) -> Iterator[None]:
    """Within it, ``model`` is made of standard operators alone and can be traced for every size.

    Args:
        model: holds an ATMNet, and heads of mm.
        height: of the images for which the graph is to be fast.
        width: the same.
        sample: computes :func:`mmatm.ops.active_sample`.
    """
    folding = _folding_mixers(model, height, width)

    def mix(self: ActiveTokenMixer, x: Tensor, offset: Tensor) -> Tensor:
        return (_mix_folded if self in folding else _mix_branches)(self, x, sample(x, offset))

    with ExitStack() as stack:
        replaced: list[tuple[Any, Callable]] = [
            (ActiveTokenMixer, mix),
            (nn.AdaptiveAvgPool2d, _pool),
        ]
        if any(type(m).__module__.startswith('mmseg.') for m in model.modules()):
            replaced.append((import_module('mmseg.models.utils').Upsample, _upsample))
        for kind, forward in replaced:
            stack.enter_context(patch.object(kind, 'forward', forward))
        yield


def _folding_mixers(model: nn.Module, height: int, width: int) -> set[nn.Module]:
    """The mixers that fold their products at that size; in the graph they do so at any size.

    That has to save more than in torch, as onnxruntime packs weights that are constant beforehand.
    """
    folding: set[nn.Module] = set()
    stages: Any
    for stages in (m.stages for m in model.modules() if hasattr(m, 'forward_stages')):
        for level, stage in enumerate(stages):
            tokens = -(-height // (4 << level)) * -(-width // (4 << level))
            mixers = [m for m in stage.modules() if isinstance(m, ActiveTokenMixer)]
            folding |= {m for m in mixers if tokens >= 6 * m.dim}
    return folding


def _mix_folded(self: ActiveTokenMixer, x: Tensor, samples: Tensor) -> Tensor:
    mean = torch.cat([_mean(samples), _mean(x)], dim=1)
    weight = torch.cat([self.width.weight, self.height.weight, self.channel.weight], dim=1)
    gate = self._gate(F.linear(mean, weight, self.width.bias + self.height.bias))  # [B, C, 3]
    gated = gate.unsqueeze(-1) * weight.unflatten(1, (3, self.dim))  # [B, C, 3, C]
    folded = (self.proj.weight @ gated.flatten(2)).unsqueeze(1).transpose(2, 3)  # [B, 1, 3C, C]
    bias = gate[..., 0] * self.width.bias + gate[..., 1] * self.height.bias
    for_samples, for_tokens = folded.split([2 * self.dim, self.dim], dim=2)
    return samples @ for_samples + x @ for_tokens + self.proj(bias)[:, None, None]


def _mix_branches(self: ActiveTokenMixer, x: Tensor, samples: Tensor) -> Tensor:
    along_width, along_height = samples.split(self.dim, dim=-1)
    width, height = self.width(along_width), self.height(along_height)
    channel = self.channel(x)
    gate = self._gate(_mean(width + height + channel))[:, None, None]
    return self.proj(gate[..., 0] * width + gate[..., 1] * height + gate[..., 2] * channel)


def _mean(x: Tensor) -> Tensor:
    """The mean of all tokens, ``[B, C]``; onnxruntime's own is slower than this product."""
    tokens = x.flatten(1, 2)
    count = tokens.shape[1]
    return (torch.ones(1, count, dtype=x.dtype) @ tokens).flatten(1) / count


def _pool(self: nn.AdaptiveAvgPool2d, x: Tensor) -> Tensor:
    """Adaptive average pooling as two products: ONNX has none for maps of any size."""
    size: Any = self.output_size
    height, width = (size, size) if isinstance(size, int) else size
    return _averages(height, x.shape[2], x) @ x @ _averages(width, x.shape[3], x).t()


def _averages(bins: int | None, size: Any, x: Tensor) -> Tensor:
    """``[bins, size]``: which part of each bin's average each place is."""
    place = torch.arange(size)
    if bins is None:
        return (place[:, None] == place).to(x.dtype)
    index, last = torch.arange(bins)[:, None], place[-1:] + 1
    start, end = index * last // bins, ((index + 1) * last + bins - 1) // bins
    return ((place >= start) & (place < end)).to(x.dtype) / (end - start).to(x.dtype)


def _upsample(self: Any, x: Tensor) -> Tensor:
    """Mmseg's layer takes the size that it computes for a constant."""
    factor = int(self.scale_factor or 1)
    if not self.size and factor != self.scale_factor:
        raise ExportError(f'maps are resized by whole factors only, but not by {self.scale_factor}')
    size = self.size or [s * factor for s in x.shape[2:]]
    return F.interpolate(x, size, None, self.mode, self.align_corners)
