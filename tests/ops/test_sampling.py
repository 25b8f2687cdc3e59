"""The sampling operator against loops, published values and finite differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmatm.ops import active_sample
from reference import DATA


def naive(x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """The docstring of ``active_sample``, one value at a time."""
    *tokens, channels = x.shape
    groups = offset.shape[-1] // 2
    out = x.new_zeros(*tokens, 2 * channels)
    for b, i, j, c, axis in itertools.product(*map(range, (*tokens, channels, 2))):
        shift = offset[b, i, j, axis * groups + c // (channels // groups)].item()
        position = (j, i)[axis] + shift
        first = math.floor(position)
        for tap, weight in ((first, first + 1 - position), (first + 1, position - first)):
            if 0 <= tap < tokens[2 - axis]:
                value = x[b, i, tap, c] if axis == 0 else x[b, tap, j, c]
                out[b, i, j, axis * channels + c] += weight * value
    return out


@st.composite
def arguments(draw):
    batch, height, width, groups, share = (
        draw(st.integers(low, high)) for low, high in ((0, 2), (1, 5), (1, 5), (1, 3), (1, 4))
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.3, 2.0, 8.0]))
    x = torch.randn(batch, height, width, groups * share, generator=generator).double()
    offset = spread * torch.randn(batch, height, width, 2 * groups, generator=generator).double()
    return x, offset


@given(arguments())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_equals_loops(args):
    torch.testing.assert_close(active_sample(*args), naive(*args))


@given(arguments())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_gradients_equal_finite_differences(args):
    x, offset = args
    # Away from the kinks at whole positions.
    fraction = (offset - offset.floor()).clamp(0.05, 0.95)
    offset = offset.floor() + fraction
    assert torch.autograd.gradcheck(active_sample, (x.requires_grad_(), offset.requires_grad_()))


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_published_values(dtype, tolerance):
    stored = np.load(DATA / 'sampling.npz')

    def channels_last(name):
        return torch.from_numpy(stored[name]).to(dtype).permute(0, 2, 3, 1)

    x, offset = (channels_last(name).requires_grad_() for name in ('x', 'offset'))
    out = active_sample(x, offset)
    cotangent = torch.cat([channels_last('cotangent_width'), channels_last('cotangent_height')], -1)
    grads = torch.autograd.grad(out, (x, offset), cotangent)
    expected = torch.cat([channels_last('along_width'), channels_last('along_height')], -1)
    for value, reference in (
        (out, expected),
        (grads[0], channels_last('grad_x')),
        (grads[1], channels_last('grad_offset')),
    ):
        torch.testing.assert_close(value, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_keeps_positions_exact(dtype):
    # 300.25 is not a float16 or bfloat16 number; the sum of index and offset must not be rounded.
    x = torch.arange(320, dtype=torch.float32).div(320).view(1, 1, 320, 1).to(dtype)
    offset = torch.full((1, 1, 320, 2), 0.25, dtype=dtype)
    out = active_sample(x, offset)[0, 0, :-1, 0]
    expected = 0.75 * x[0, 0, :-1, 0].float() + 0.25 * x[0, 0, 1:, 0].float()
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize('value', [1e9, -1e9, math.inf, -math.inf, 1e30])
def test_positions_far_outside_have_no_effect(value):
    x = torch.randn(2, 3, 4, 6, requires_grad=True)
    offset = torch.full((2, 3, 4, 4), value, requires_grad=True)
    out = active_sample(x, offset)
    out.sum().backward()
    assert out.eq(0).all()
    assert x.grad.eq(0).all()
    assert offset.grad.eq(0).all()


def test_nan_stays_where_it_is():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 6, requires_grad=True)
    offset = torch.randn(1, 3, 4, 4)
    clean = active_sample(x, offset)
    offset[0, 1, 2, 1] = math.nan  # along the width, channels 3 to 5
    out = active_sample(x, offset)
    hit = torch.zeros_like(out, dtype=torch.bool)
    hit[0, 1, 2, 3:6] = True
    assert out[hit].isnan().all()
    torch.testing.assert_close(out[~hit], clean[~hit], rtol=0, atol=0)
    out[~hit].sum().backward()
    assert x.grad.isfinite().all()


def test_nan_in_a_map_does_not_spread_past_its_neighbors():
    x = torch.ones(1, 1, 8, 1)
    x[0, 0, 3] = math.nan
    out = active_sample(x, torch.full((1, 1, 8, 2), 0.5))
    assert out[0, 0, :, 0].isnan().tolist() == [i in (2, 3) for i in range(8)]


@pytest.mark.parametrize('shape', [(0, 3, 4, 6), (2, 0, 4, 6), (2, 3, 0, 6)])
def test_empty(shape):
    x = torch.randn(shape, requires_grad=True)
    out = active_sample(x, torch.randn(*shape[:3], 4, requires_grad=True))
    assert out.shape == (*shape[:3], 12)
    out.sum().backward()


X = torch.randn(1, 2, 2, 6)


@pytest.mark.parametrize(
    ('x', 'offset', 'said'),
    [
        (X[0], torch.randn(1, 2, 2, 4), '[2, 2, 6]'),
        (X, torch.randn(2, 2, 4), '[2, 2, 4]'),
        (X, torch.randn(1, 2, 3, 4), '[1, 2, 3, 4]'),
        (X, torch.randn(1, 2, 2, 3), 'offset has 3'),
        (X, torch.randn(1, 2, 2, 8), 'x has 6'),
        (X, torch.randn(1, 2, 2, 0), 'offset has 0'),
        (X, torch.randn(1, 2, 2, 4).double(), 'torch.float64'),
        (X.int(), torch.randn(1, 2, 2, 4).int(), 'torch.int32'),
        (X, torch.randn(1, 2, 2, 4).to('meta'), 'meta'),
    ],
)
def test_bad_arguments_are_named(x, offset, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011  the message is checked below
        active_sample(x, offset)
    assert said in str(error.value)
