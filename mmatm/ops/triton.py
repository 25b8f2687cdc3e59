"""Triton backend of the sampling operator, for CUDA devices.

The operator does little arithmetic, so memory traffic is what counts. A program samples a tile of
tokens and some of their channels along both axes. Neighboring tokens sample neighboring tokens, so
``x`` is read from device memory about once. Registers are laid out as ``[tokens, groups, share]``:
a thread locates a group once and moves its adjacent channels in one access. Means are sums of what
a program has in its registers, one row per tile, which torch then adds up in a fixed order.

With ``TRITON_INTERPRET=1`` in the environment, the kernels run on CPU tensors.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import reference

load_error = ''  # why Triton cannot be used
try:
    import triton
    import triton.language as tl
    from triton import jit
    from triton.language import cast as _  # noqa: F401  not in Triton 2, which cannot compile these
except ImportError as error:  # the kernels below become plain functions, which are never called
    load_error = str(error)
    triton, tl = None, SimpleNamespace(constexpr=None)

    def jit(function=None, **_):
        return function or jit


_TILE_CHANNELS = 32
_TILE_TOKENS = 64
_ACCESS = 16  # bytes, the widest access there is: 4 channels of float32, 8 of half precision


def is_available() -> bool:
    """Whether Triton is installed and can run, on a CUDA device or in its interpreter."""
    if triton is None:
        return False
    return torch.cuda.is_available() or not isinstance(_forward_kernel, triton.JITFunction)


def forward(x: Tensor, offset: Tensor) -> Tensor:
    """Sample ``x [B, H, W, C]`` at ``offset [B, H, W, 2 * G]``; returns ``[B, H, W, 2 * C]``."""
    return _forward(x, offset, with_mean=False)[0]


def forward_mean(x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return the samples, and the mean of ``[samples, x]`` over all tokens, ``[B, 3 * C]``.

    Both are bitwise identical in every run.
    """
    if not x.numel():
        return reference.active_sample_mean(x, offset)
    out, sums = _forward(x, offset, with_mean=True)
    mean = torch.empty(len(x), 3 * x.shape[3], dtype=x.dtype, device=x.device)
    return out, torch.div(sums.sum(1), x.shape[1] * x.shape[2], out=mean)


def backward(grad_output: Tensor, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and ``offset``, given that of the samples.

    The gradient of ``offset`` is bitwise identical in every run, that of ``x`` only if torch uses
    deterministic algorithms.
    """
    return _backward(grad_output, None, x, offset)


def backward_mean(
    grad_output: Tensor, grad_mean: Tensor, x: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and ``offset``, given those of :func:`forward_mean`'s results.

    What :func:`backward` says of the order applies.
    """
    return _backward(grad_output, grad_mean, x, offset)


def _forward(x: Tensor, offset: Tensor, with_mean: bool) -> tuple[Tensor, Any]:
    """The samples and, with means, the sums per tile ``[B, tiles, 3 * C]``."""
    x, offset = x.contiguous(), offset.contiguous()
    batch, height, width, channels = x.shape
    out = torch.empty(batch, height, width, 2 * channels, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out, None
    tiles, blocks, tile = _tiles(x, offset)
    shape = batch, tiles, 3 * channels
    sums = torch.empty(*shape, dtype=_real(x), device=x.device) if with_mean else None
    with torch.cuda.device_of(x):
        _forward_kernel[batch * tiles * blocks,](x, offset, out, sums, height, width, **tile)
    return out, sums


def _backward(
    grad_output: Tensor, grad_mean: Tensor | None, x: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    if not grad_output.numel():
        return torch.zeros_like(x), torch.zeros_like(offset)
    grad_output, x, offset = grad_output.contiguous(), x.contiguous(), offset.contiguous()
    batch, height, width, channels = x.shape
    if grad_mean is None:  # what every token's gradient gets from the mean, [B, 3 * C]
        shift = None
        grad_x = torch.zeros(x.shape, dtype=_real(x), device=x.device)
    else:
        shift = grad_mean.to(_real(x)) / (height * width)
        own = shift[:, None, None, 2 * channels :]
        grad_x = torch.empty(x.shape, dtype=_real(x), device=x.device).copy_(own)
    grad_offset = torch.empty_like(offset)
    # The gradient of x is a scatter, because offsets have no bound within which to gather. Atomics
    # do it in the pass that computes the gradient of the offsets. Without atomics, one warp walks
    # along a whole line of tokens and waits for memory at each. The order is then fixed, but maps
    # have too few lines to keep a GPU busy, however small the offsets are.
    in_order = torch.are_deterministic_algorithms_enabled()
    tiles, blocks, tile = _tiles(x, offset)
    grads = grad_output, shift
    with torch.cuda.device_of(x):
        _backward_kernel[batch * tiles * blocks,](
            *grads, x, offset, grad_x, grad_offset, height, width, SCATTER=not in_order, **tile
        )
        for axis in (0, 1) if in_order else ():
            programs, line = _lines(x, offset, axis)
            _scatter_kernel[programs,](*grads, offset, grad_x, height, width, **line)
    return grad_x.to(x.dtype), grad_offset


def _real(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype == torch.float64 else torch.float32


def _channel_blocks(x: Tensor, offset: Tensor) -> tuple[int, dict]:
    """The number of blocks of channels, and their compile-time arguments."""
    groups = offset.shape[3] // 2
    share = x.shape[3] // groups
    lanes = triton.next_power_of_2(share)
    block = min(max(1, _TILE_CHANNELS // lanes), triton.next_power_of_2(groups))
    real = tl.float64 if _real(x) == torch.float64 else tl.float32
    constants = {'GROUPS': groups, 'SHARE': share, 'BLOCK': block, 'LANES': lanes, 'REAL': real}
    return triton.cdiv(groups, block), constants


def _tiles(x: Tensor, offset: Tensor) -> tuple[int, int, dict]:
    """Tiles that cover an image, blocks of channels, and the compile-time arguments of both."""
    blocks, constants = _channel_blocks(x, offset)
    channels = constants['BLOCK'] * constants['LANES']
    tokens = max(1, _TILE_TOKENS * _TILE_CHANNELS // channels)
    columns = min(8, tokens)
    rows = tokens // columns
    tiles = triton.cdiv(x.shape[1], rows) * triton.cdiv(x.shape[2], columns)
    # Channels of another offset lie at another token, so an access ends where the share does.
    per_thread = max(4, min(_ACCESS // x.element_size(), constants['LANES']))
    warps = _TILE_TOKENS * _TILE_CHANNELS // (32 * per_thread)
    return tiles, blocks, {**constants, 'ROWS': rows, 'COLUMNS': columns, 'num_warps': warps}


def _lines(x: Tensor, offset: Tensor, axis: int) -> tuple[int, dict]:
    """The number of programs that walk along the width (0) or height (1), and their constants."""
    blocks, constants = _channel_blocks(x, offset)
    lines = x.shape[0] * x.shape[1 + axis]
    return lines * blocks, {**constants, 'AXIS': axis, 'num_warps': 1}


# Images have many sizes: do not recompile for special ones.
_kernel = jit(do_not_specialize=['height', 'width'])


@jit
def _channels(GROUPS: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """Split the program's number into a tile or line and a block of channels.

    Returns the number of the tile or line, ``group [1, BLOCK]``, whether that group exists,
    ``channel [1, BLOCK, LANES]``, and whether that channel exists.
    """
    BLOCKS: tl.constexpr = (GROUPS + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    group = (program % BLOCKS * BLOCK + tl.arange(0, BLOCK))[None, :]
    lane = tl.arange(0, LANES)[None, None, :]
    channel = (group * SHARE)[:, :, None] + lane
    return program // BLOCKS, group, group < GROUPS, channel, lane < SHARE


@jit
def _tokens(tile, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The image of a tile; row, column and index of its tokens, each ``[ROWS * COLUMNS, 1]``."""
    across = tl.cdiv(width, COLUMNS)
    down = tl.cdiv(height, ROWS)
    number = tl.arange(0, ROWS * COLUMNS)[:, None]
    row = tile // across % down * ROWS + number // COLUMNS
    column = tile % across * COLUMNS + number % COLUMNS
    image = (tile // (across * down)).to(tl.int64)  # offsets in memory may exceed 2 ** 31
    return image, row, column, (image * height + row) * width + column


@jit
def _locate(
    offset,
    token,
    axis,
    index,
    size,
    step,
    group,
    valid,
    channel,
    lane,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    REAL: tl.constexpr,
):
    """Load the offsets along an axis and find the two tokens next to each sampling position.

    Returns the indices of the offsets and whether positions are infinite, both ``[tokens, BLOCK]``.
    Then, broadcastable to ``[tokens, BLOCK, LANES]``: the weight of the second token, the index of
    the first in x and whether it exists, the same for the second, and the index of the sample in
    the output.
    """
    CHANNELS: tl.constexpr = GROUPS * SHARE
    # This hint is always true. It keeps Triton from loading several adjacent offsets per thread:
    # everything computed from them would have to pass through shared memory to other threads.
    place = tl.max_contiguous(token * (2 * GROUPS) + axis * GROUPS + group, (1, 1))
    position = index + tl.load(offset + place, mask=valid, other=0).to(REAL)
    floor = tl.floor(position)
    infinite = tl.abs(position) == float('inf')
    weight = tl.where(infinite, 0.0, position - floor)[:, :, None]
    # Only positions near the axis are converted to integers. NaN is not.
    left = tl.where((floor >= -1) & (floor < size), floor, -2).to(tl.int32)
    left_valid = (valid & (left >= 0))[:, :, None] & lane
    right_valid = (valid & (left >= -1) & (left + 1 < size))[:, :, None] & lane
    step = tl.cast(step, tl.int64)
    first = ((token + (left - index) * step) * CHANNELS)[:, :, None] + channel
    second = first + step * CHANNELS
    sample = (token * (2 * CHANNELS) + axis * CHANNELS)[:, :, None] + channel
    return place, infinite, weight, first, left_valid, second, right_valid, sample


@jit
def _shift(shift, image, axis, channel, mask, CHANNELS: tl.constexpr):
    """Load what the gradient of every sample gets from that of the mean, ``[1, BLOCK, LANES]``."""
    return tl.load(shift + image * (3 * CHANNELS) + axis * CHANNELS + channel, mask=mask, other=0)


@jit
def _store_sum(place, value, mask):
    """Store the sum over a tile's tokens; values of tokens outside the map must be zero."""
    tl.store(place, tl.sum(value, axis=0)[None, :, :], mask=mask)


@_kernel
def _forward_kernel(
    x,
    offset,
    out,
    sums,
    height,
    width,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    REAL: tl.constexpr,
):
    tile, group, exists, channel, lane = _channels(GROUPS, SHARE, BLOCK, LANES)
    _, row, column, token = _tokens(tile, height, width, ROWS, COLUMNS)
    valid = exists & (row < height) & (column < width)
    place = tile.to(tl.int64) * (3 * GROUPS * SHARE) + channel
    for axis in tl.static_range(2):
        if axis == 0:
            index, size, step = column, width, 1
        else:
            index, size, step = row, height, width
        _, _, weight, first, left, second, right, sample = _locate(
            offset, token, axis, index, size, step, group, valid, channel, lane, GROUPS, SHARE, REAL
        )
        low = tl.load(x + first, mask=left, other=0).to(REAL)
        high = tl.load(x + second, mask=right, other=0).to(REAL)
        value = (1 - weight) * low + weight * high
        tl.store(out + sample, value, mask=valid[:, :, None] & lane)
        if sums is not None:
            _store_sum(sums + place + axis * GROUPS * SHARE, value, exists[:, :, None] & lane)
    if sums is not None:
        own = x + (token * (GROUPS * SHARE))[:, :, None] + channel
        value = tl.load(own, mask=valid[:, :, None] & lane, other=0).to(REAL)
        _store_sum(sums + place + 2 * GROUPS * SHARE, value, exists[:, :, None] & lane)


@_kernel
def _backward_kernel(
    grad_output,
    shift,
    x,
    offset,
    grad_x,
    grad_offset,
    height,
    width,
    SCATTER: tl.constexpr,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    REAL: tl.constexpr,
):
    """The gradient of the offsets and, with ``SCATTER``, that of x, summed in any order."""
    tile, group, exists, channel, lane = _channels(GROUPS, SHARE, BLOCK, LANES)
    image, row, column, token = _tokens(tile, height, width, ROWS, COLUMNS)
    valid = exists & (row < height) & (column < width)
    for axis in tl.static_range(2):
        if axis == 0:
            index, size, step = column, width, 1
        else:
            index, size, step = row, height, width
        place, infinite, weight, first, left, second, right, sample = _locate(
            offset, token, axis, index, size, step, group, valid, channel, lane, GROUPS, SHARE, REAL
        )
        low = tl.load(x + first, mask=left, other=0).to(REAL)
        high = tl.load(x + second, mask=right, other=0).to(REAL)
        grad = tl.load(grad_output + sample, mask=valid[:, :, None] & lane, other=0).to(REAL)
        if shift is not None:
            grad += _shift(shift, image, axis, channel, exists[:, :, None] & lane, GROUPS * SHARE)
        slope = tl.sum(grad * (high - low), axis=2)
        tl.store(grad_offset + place, tl.where(infinite, 0.0, slope), mask=valid)
        if SCATTER:
            tl.atomic_add(grad_x + first, (1 - weight) * grad, mask=left, sem='relaxed')
            tl.atomic_add(grad_x + second, weight * grad, mask=right, sem='relaxed')


@_kernel
def _scatter_kernel(
    grad_output,
    shift,
    offset,
    grad_x,
    height,
    width,
    AXIS: tl.constexpr,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    REAL: tl.constexpr,
):
    """Add the gradient of x along one axis in a fixed order; a program owns a line."""
    line, group, valid, channel, lane = _channels(GROUPS, SHARE, BLOCK, LANES)
    line = line.to(tl.int64)
    if AXIS == 0:
        start, size, step = line * width, width, 1
    else:
        start, size, step = line // width * height * width + line % width, height, width
    step = tl.cast(step, tl.int64)
    if shift is not None:
        image = line // (height if AXIS == 0 else width)
        added = _shift(shift, image, AXIS, channel, valid[:, :, None] & lane, GROUPS * SHARE)
    for index in range(size):
        token = tl.full((1, 1), 0, tl.int64) + start + index * step
        _, _, weight, first, left, second, right, sample = _locate(
            offset, token, AXIS, index, size, step, group, valid, channel, lane, GROUPS, SHARE, REAL
        )
        first += grad_x
        second += grad_x
        grad = tl.load(grad_output + sample, mask=valid[:, :, None] & lane, other=0).to(REAL)
        if shift is not None:
            grad += added
        low = tl.load(first, mask=left, other=0) + (1 - weight) * grad
        high = tl.load(second, mask=right, other=0) + weight * grad
        # One thread may load an element and another store it, so all loads must come before the
        # stores, and these before the next token's loads.
        tl.debug_barrier()
        tl.store(first, low, mask=left)
        tl.store(second, high, mask=right)
        tl.debug_barrier()
