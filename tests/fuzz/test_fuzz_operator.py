"""Random arguments of the sampling operator: the reference's result, or a clear error."""

import math

import numpy as np
import pytest
import torch
from fuzz.cases import cases, rejected
from hypothesis import given
from hypothesis import strategies as st

from mmatm.ops import active_sample, active_sample_mean, available_backends, reference

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}
SPECIAL = (0.0, 1.0, -1.0, 0.5, 1e9, -1e9, 1e30, math.inf, -math.inf, math.nan)
LAYOUTS = ('contiguous', 'transposed', 'strided', 'offset', 'expanded', 'flipped', 'negative')


def laid_out(values, layout):
    """The same values in another memory layout."""
    if layout == 'transposed':
        return values.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    if layout == 'strided':
        return torch.stack([values, values + 1], -1).flatten(3)[..., ::2]
    if layout == 'offset':
        return torch.cat([values.new_zeros(3), values.flatten()])[3:].view(values.shape)
    if layout == 'expanded':
        return values[:1].expand_as(values) if len(values) else values
    if layout == 'flipped':
        return values.flip(2).contiguous().flip(2)
    if layout == 'negative' and values.dtype in (torch.float32, torch.float64):
        return torch.complex(values, -values).conj().imag
    return values


@st.composite
def arguments(draw):
    batch, height, width, groups = (draw(st.integers(low, high)) for low, high in
                                    ((0, 3), (0, 7), (0, 9), (1, 5)))  # fmt: skip
    share = draw(st.sampled_from([1, 2, 3, 4, 8, 16, 17]))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.0, 0.3, 3.0, 50.0]))

    def make(channels, scale):
        shape = (batch, height, width, channels)
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return laid_out(values.to(dtype), draw(st.sampled_from(LAYOUTS)))

    x, offset = make(groups * share, 1.0), make(2 * groups, scale)
    if draw(st.booleans()) and offset.numel():
        offset = offset.clone()
        place = tuple(draw(st.integers(0, size - 1)) for size in offset.shape)
        offset[place] = torch.tensor(draw(st.sampled_from(SPECIAL))).to(dtype)
    return x, offset


def solve(function, x, offset, dtype, *rest):
    """Results and gradients as float64, for cotangents that ``dtype`` can represent."""
    x, offset = x.detach().requires_grad_(), offset.detach().requires_grad_()
    out = function(x, offset, *rest)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(dtype)
    grads = torch.autograd.grad(out, (x, offset), cotangent.to(out.dtype))
    return [value.detach().double() for value in (out, *grads)]


@given(arguments())
@cases(60)
def test_values_and_gradients_equal_the_reference(args):
    x, offset = args
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    expected = solve(reference.active_sample, x.to(wide), offset.to(wide), x.dtype)
    tolerance = TOLERANCE[x.dtype]
    for backend in available_backends(x.device):
        for value, wanted in zip(
            solve(active_sample, x, offset, x.dtype, backend), expected, strict=True
        ):
            scale = wanted[wanted.isfinite()].abs().max().item() if wanted.numel() else 1.0
            torch.testing.assert_close(
                value, wanted, rtol=tolerance, atol=tolerance * max(scale, 1.0), equal_nan=True
            )


@given(arguments())
@cases(15)
def test_means_equal_those_of_the_samples(args):
    x, offset = args
    if not all(x.shape[:3]):
        return  # the mean of nothing
    for backend in available_backends(x.device):
        samples, mean = active_sample_mean(x, offset, backend)
        torch.testing.assert_close(samples, active_sample(x, offset, backend), equal_nan=True)
        wanted = torch.cat([samples.double(), x.double()], -1).mean((1, 2))
        tolerance = TOLERANCE[x.dtype]
        torch.testing.assert_close(
            mean.double(), wanted, rtol=tolerance, atol=2 * tolerance, equal_nan=True
        )


SHAPES = st.lists(st.integers(0, 6), min_size=0, max_size=6).map(tuple)
DTYPES = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
     torch.bool, torch.complex64, torch.float8_e4m3fn]
)  # fmt: skip


@st.composite
def anything(draw, shape=None):
    """A tensor of any kind, or something else."""
    kind = draw(st.sampled_from(['tensor'] * 6 + ['sparse', 'meta', 'array', 'other']))
    shape = shape or draw(SHAPES)
    if kind == 'other':
        return draw(st.sampled_from([None, 1, 'x', [1.0], (), {}, object]))
    if kind == 'array':
        return np.zeros(shape)
    tensor = torch.zeros(shape, device='meta' if kind == 'meta' else 'cpu').to(draw(DTYPES))
    if kind == 'sparse' and tensor.dtype == torch.float32:
        return tensor.to_sparse()
    return tensor


@st.composite
def calls(draw):
    """Arguments that may or may not fit each other."""
    if draw(st.booleans()):
        return draw(anything()), draw(anything())
    batch, height, width, groups, share = (draw(st.integers(0, 4)) for _ in range(5))
    x = draw(anything((batch, height, width, groups * share)))
    return x, draw(anything((batch, height, width, 2 * groups)))


BACKENDS = st.sampled_from([None] * 3 + ['cpp', 'reference', 'triton', 'cuda', '', 1, [], object])


@given(calls(), BACKENDS)
@cases(25)
def test_arguments_are_taken_or_rejected(args, backend):
    for function in (active_sample, active_sample_mean):
        try:
            out = function(*args, backend)
        except (ValueError, TypeError) as error:
            rejected(error)
            continue
        samples = out if function is active_sample else out[0]
        x, offset = args
        assert samples.shape == (*x.shape[:3], 2 * x.shape[3])
        assert samples.dtype == x.dtype == offset.dtype
        if x.device.type == 'cpu':
            assert samples.eq(0).all()


@pytest.mark.parametrize('backend', available_backends())
def test_many_channels_in_one_group(backend):
    x, offset = torch.randn(1, 3, 5, 4099), torch.randn(1, 3, 5, 2)
    torch.testing.assert_close(
        active_sample(x, offset, backend), reference.active_sample(x, offset), rtol=1e-5, atol=1e-5
    )
