"""Public face of the sampling operator: argument checks, then a backend."""

import torch
from torch import Tensor

from . import reference

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def active_sample(x: Tensor, offset: Tensor) -> Tensor:
    """Gather, for every token and channel, one value along the width and one along the height.

    With ``g = c // (C / G)`` the group of channel ``c``::

        out[b, h, w, c]     = x[b, h, w + offset[b, h, w, g], c]
        out[b, h, w, C + c] = x[b, h + offset[b, h, w, G + g], w, c]

    read by linear interpolation between the two neighbouring tokens; a neighbour outside the map
    counts as zero. Differentiable in both arguments; at an integral position the gradient of the
    offset is the one from the right.

    Any offset is safe. An infinite one is outside. NaN gives NaN in its own outputs and nowhere
    else, and passes no gradient to ``x``.

    Args:
        x: tokens, ``[B, H, W, C]``, channels last; float64, float32, bfloat16 or float16.
        offset: displacements in tokens, ``[B, H, W, 2 * G]``, of ``x``'s dtype and device: ``G``
            along the width, then ``G`` along the height. ``C`` is a multiple of ``G``.

    Returns:
        ``[B, H, W, 2 * C]`` in ``x``'s dtype: the samples along the width, then along the height.

    Raises:
        ValueError: rank, size, dtype or device of an argument does not fit.

    Source: *Active Token Mixer* (arXiv 2203.06108), section "Active Token Mixer", without the
    full deformable convolution that the published code uses for it.
    """
    _check(x, offset)
    return reference.active_sample(x, offset)


def _check(x: Tensor, offset: Tensor) -> None:
    if x.dim() != 4 or offset.dim() != 4:
        raise ValueError(
            'x must be [B, H, W, C] and offset [B, H, W, 2 * G], '
            f'but x is {list(x.shape)} and offset is {list(offset.shape)}'
        )
    if x.shape[:3] != offset.shape[:3]:
        raise ValueError(
            'x and offset must agree in batch, height and width, '
            f'but x is {list(x.shape)} and offset is {list(offset.shape)}'
        )
    channels, groups = x.shape[3], offset.shape[3] // 2
    if offset.shape[3] % 2 or groups == 0 or channels % groups:
        raise ValueError(
            'offset must have 2 * G channels with G a divisor of the channels of x, '
            f'but offset has {offset.shape[3]} and x has {channels}'
        )
    if x.dtype not in _DTYPES or offset.dtype != x.dtype:
        raise ValueError(
            f'x and offset must share one dtype out of {[str(d) for d in _DTYPES]}, '
            f'but x is {x.dtype} and offset is {offset.dtype}'
        )
    if x.device != offset.device:
        raise ValueError(
            f'x and offset must be on one device, but x is on {x.device} '
            f'and offset on {offset.device}'
        )
