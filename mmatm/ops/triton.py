"""Triton backend of the sampling step, for CUDA devices.

The step does little arithmetic, so what counts is memory traffic. A program reads both axes for a
square of tokens times some channels: neighbouring tokens sample neighbouring tokens, so ``x``
leaves device memory about once. Its registers are laid out as ``[tokens, groups, share]``: a thread
locates a group once and moves its adjacent channels in one access.

With ``TRITON_INTERPRET=1`` in the environment the kernels run on CPU tensors instead.
"""

from types import SimpleNamespace

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
    from triton import jit
    from triton.language import cast as _  # noqa: F401  Triton 2 lacks it, and cannot compile these
except ImportError:  # then the kernels below are plain functions that nothing calls
    triton, tl = None, SimpleNamespace(constexpr=None)

    def jit(function=None, **_):
        return function or jit


_TILE_CHANNELS = 32
_TILE_TOKENS = 64
_TILE_WARPS = 16  # a thread for 4 channels: in float32, the widest access there is


def is_available() -> bool:
    """Whether Triton is installed and has a CUDA device, or its interpreter, to run on."""
    if triton is None:
        return False
    return torch.cuda.is_available() or not isinstance(_forward_kernel, triton.JITFunction)


def forward(x: Tensor, offset: Tensor) -> Tensor:
    """Sample ``x [B, H, W, C]`` at ``offset [B, H, W, 2 * G]``, giving ``[B, H, W, 2 * C]``."""
    x, offset = x.contiguous(), offset.contiguous()
    out = torch.empty(*x.shape[:3], 2 * x.shape[3], dtype=x.dtype, device=x.device)
    if out.numel():
        programs, tile = _tiles(x, offset)
        with torch.cuda.device_of(x):
            _forward_kernel[programs,](x, offset, out, *x.shape[1:3], **tile)
    return out


def backward(grad_output: Tensor, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`forward`, given that of its result, ``[B, H, W, 2 * C]``.

    Returns:
        The gradients of ``x [B, H, W, C]`` and of ``offset [B, H, W, 2 * G]``. The latter has the
        same bits in every run; the former only if torch is set to deterministic algorithms.
    """
    if not grad_output.numel():
        return torch.zeros_like(x), torch.zeros_like(offset)
    grad_output, x, offset = grad_output.contiguous(), x.contiguous(), offset.contiguous()
    grad_x = torch.zeros(x.shape, dtype=_real(x), device=x.device)
    grad_offset = torch.empty_like(offset)
    # The gradient of x is a scatter, for offsets have no bound within which to gather. Atomics do
    # it in the pass that computes the gradient of the offsets. Without them, one warp walks along
    # a whole line of tokens and waits for memory at each: a fixed order, but a map has too few
    # lines to keep a GPU busy, be the offsets ever so small.
    in_order = torch.are_deterministic_algorithms_enabled()
    programs, tile = _tiles(x, offset)
    size = x.shape[1:3]
    with torch.cuda.device_of(x):
        _backward_kernel[programs,](
            grad_output, x, offset, grad_x, grad_offset, *size, SCATTER=not in_order, **tile
        )
        for axis in (0, 1) if in_order else ():
            programs, line = _lines(x, offset, axis)
            _scatter_kernel[programs,](grad_output, offset, grad_x, *size, **line)
    return grad_x.to(x.dtype), grad_offset


def _real(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype == torch.float64 else torch.float32


def _channel_blocks(x: Tensor, offset: Tensor) -> tuple[int, dict]:
    """Into how many blocks the channels fall, and the compile-time arguments that say so."""
    groups = offset.shape[3] // 2
    share = x.shape[3] // groups
    lanes = triton.next_power_of_2(share)
    block = min(max(1, _TILE_CHANNELS // lanes), triton.next_power_of_2(groups))
    real = tl.float64 if _real(x) == torch.float64 else tl.float32
    constants = {'GROUPS': groups, 'SHARE': share, 'BLOCK': block, 'LANES': lanes, 'REAL': real}
    return triton.cdiv(groups, block), constants


def _tiles(x: Tensor, offset: Tensor) -> tuple[int, dict]:
    """How many programs cover the map in tiles, and their compile-time arguments."""
    blocks, constants = _channel_blocks(x, offset)
    channels = constants['BLOCK'] * constants['LANES']
    tokens = max(1, _TILE_TOKENS * _TILE_CHANNELS // channels)
    columns = min(8, tokens)
    rows = tokens // columns
    tiles = x.shape[0] * triton.cdiv(x.shape[1], rows) * triton.cdiv(x.shape[2], columns)
    return tiles * blocks, {**constants, 'ROWS': rows, 'COLUMNS': columns, 'num_warps': _TILE_WARPS}


def _lines(x: Tensor, offset: Tensor, axis: int) -> tuple[int, dict]:
    """How many programs walk along the width (0) or height (1), and their constants."""
    blocks, constants = _channel_blocks(x, offset)
    lines = x.shape[0] * x.shape[1 + axis]
    return lines * blocks, {**constants, 'AXIS': axis, 'num_warps': 1}


# Every image may have its own size: do not compile for some of them anew.
_kernel = jit(do_not_specialize=['height', 'width'])


@jit
def _channels(GROUPS: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """Split the program's number into a remaining one and its block of channels.

    Returns the remainder, ``group [1, BLOCK]``, whether it exists, ``channel [1, BLOCK, LANES]``,
    and whether the lane does.
    """
    BLOCKS: tl.constexpr = (GROUPS + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    group = (program % BLOCKS * BLOCK + tl.arange(0, BLOCK))[None, :]
    lane = tl.arange(0, LANES)[None, None, :]
    channel = (group * SHARE)[:, :, None] + lane
    return program // BLOCKS, group, group < GROUPS, channel, lane < SHARE


@jit
def _tokens(tile, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row, column and index in memory of the tokens of a tile, each ``[ROWS * COLUMNS, 1]``."""
    across = tl.cdiv(width, COLUMNS)
    down = tl.cdiv(height, ROWS)
    number = tl.arange(0, ROWS * COLUMNS)[:, None]
    row = tile // across % down * ROWS + number // COLUMNS
    column = tile % across * COLUMNS + number % COLUMNS
    image = (tile // (across * down)).to(tl.int64)  # offsets in memory may exceed 2 ** 31
    return row, column, (image * height + row) * width + column


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
    """Read the offsets along an axis and find the two neighbours of the positions they lead to.

    Returns where in memory the offsets are and whether positions are infinite, both
    ``[tokens, BLOCK]``. Then, to be broadcast to ``[tokens, BLOCK, LANES]``: the weight of the
    second neighbour, where in x the first one is and whether it exists, the same of the second,
    and where in the output the sample is.
    """
    CHANNELS: tl.constexpr = GROUPS * SHARE
    # The hint, true of anything, keeps Triton from loading several adjacent offsets per thread: all
    # that follows from them would have to pass through shared memory to the threads in need.
    place = tl.max_contiguous(token * (2 * GROUPS) + axis * GROUPS + group, (1, 1))
    position = index + tl.load(offset + place, mask=valid, other=0).to(REAL)
    floor = tl.floor(position)
    infinite = tl.abs(position) == float('inf')
    weight = tl.where(infinite, 0.0, position - floor)[:, :, None]
    # Only what is near the axis may become an integer. NaN is not.
    left = tl.where((floor >= -1) & (floor < size), floor, -2).to(tl.int32)
    left_valid = (valid & (left >= 0))[:, :, None] & lane
    right_valid = (valid & (left >= -1) & (left + 1 < size))[:, :, None] & lane
    step = tl.cast(step, tl.int64)
    first = ((token + (left - index) * step) * CHANNELS)[:, :, None] + channel
    second = first + step * CHANNELS
    sample = (token * (2 * CHANNELS) + axis * CHANNELS)[:, :, None] + channel
    return place, infinite, weight, first, left_valid, second, right_valid, sample


@_kernel
def _forward_kernel(
    x,
    offset,
    out,
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
    row, column, token = _tokens(tile, height, width, ROWS, COLUMNS)
    valid = exists & (row < height) & (column < width)
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


@_kernel
def _backward_kernel(
    grad_output,
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
    """The gradient of the offsets, and with ``SCATTER`` that of x, in any order."""
    tile, group, exists, channel, lane = _channels(GROUPS, SHARE, BLOCK, LANES)
    row, column, token = _tokens(tile, height, width, ROWS, COLUMNS)
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
        slope = tl.sum(grad * (high - low), axis=2)
        tl.store(grad_offset + place, tl.where(infinite, 0.0, slope), mask=valid)
        if SCATTER:
            tl.atomic_add(grad_x + first, (1 - weight) * grad, mask=left, sem='relaxed')
            tl.atomic_add(grad_x + second, weight * grad, mask=right, sem='relaxed')


@_kernel
def _scatter_kernel(
    grad_output,
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
    """Add one axis's share of the gradient of x in a fixed order: a program owns a line."""
    line, group, valid, channel, lane = _channels(GROUPS, SHARE, BLOCK, LANES)
    line = line.to(tl.int64)
    if AXIS == 0:
        start, size, step = line * width, width, 1
    else:
        start, size, step = line // width * height * width + line % width, height, width
    step = tl.cast(step, tl.int64)
    for index in range(size):
        token = tl.full((1, 1), 0, tl.int64) + start + index * step
        _, _, weight, first, left, second, right, sample = _locate(
            offset, token, AXIS, index, size, step, group, valid, channel, lane, GROUPS, SHARE, REAL
        )
        first += grad_x
        second += grad_x
        grad = tl.load(grad_output + sample, mask=valid[:, :, None] & lane, other=0).to(REAL)
        low = tl.load(first, mask=left, other=0) + (1 - weight) * grad
        high = tl.load(second, mask=right, other=0) + weight * grad
        # An element may be loaded by one thread and stored by another, so let all loads come
        # before the stores, and these before the next token's loads.
        tl.debug_barrier()
        tl.store(first, low, mask=left)
        tl.store(second, high, mask=right)
        tl.debug_barrier()
