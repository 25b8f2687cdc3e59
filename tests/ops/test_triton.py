"""The Triton backend against the reference, in outputs and both gradients.

With CUDA the kernels are compiled. Without, they run in Triton's interpreter, which must be enabled
before Triton is imported, so these tests then run in a process of their own.
"""

import importlib.util
import os
import random
import subprocess
import sys

import pytest
import torch

from mmatm.ops import reference
from mmatm.ops import triton as backend
from sampling import DTYPES, RTOL
from sampling import problem as cpu_problem

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
TRITON = backend.triton is not None

runs_kernels = pytest.mark.skipif(
    not (CUDA or INTERPRETED),
    reason='see test_in_interpreter' if TRITON else 'Triton 3 is not installed',
)


def problem(*arguments):
    return [t.to('cuda' if CUDA else 'cpu') for t in cpu_problem(*arguments)]


def of_mean(x):
    """A gradient of the mean, as large per token as that of the samples."""
    size = len(x), 3 * x.shape[3]
    generator = torch.Generator().manual_seed(1)
    return (x.shape[1] * x.shape[2] * torch.randn(size, generator=generator)).to(x)


def run(x, offset, grad):
    """Samples and gradients, then the same with the mean."""
    plain = backend.forward(x, offset), *backend.backward(grad, x, offset)
    means = backend.backward_mean(grad, of_mean(x), x, offset)
    return *plain, *backend.forward_mean(x, offset), *means


def expected(x, offset, grad):
    """The same from the reference, in float32 at least, so that nothing is rounded on the way."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    leaves = [t.detach().to(dtype).requires_grad_() for t in (x, offset)]
    samples, mean = reference.active_sample_mean(*leaves)
    cotangents = grad.to(dtype), of_mean(x).to(dtype)
    plain = torch.autograd.grad(samples, leaves, cotangents[0], retain_graph=True)
    means = torch.autograd.grad((samples, mean), leaves, cotangents)
    return [t.detach().to(x.dtype) for t in (samples, *plain, samples, mean, *means)]


def assert_matches(x, offset, grad):
    rtol = RTOL[x.dtype]  # the interpreter truncates to bfloat16 instead of rounding
    for result, wanted in zip(run(x, offset, grad), expected(x, offset, grad), strict=True):
        torch.testing.assert_close(result, wanted, rtol=rtol, atol=rtol / 10, equal_nan=True)


@pytest.fixture(params=[False, True], ids=['any_order', 'fixed_order'])
def deterministic(request):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(request.param)
    yield request.param
    torch.use_deterministic_algorithms(before)


@pytest.mark.skipif(CUDA or INTERPRETED or not TRITON, reason='the tests below run here')
def test_in_interpreter():
    command = [sys.executable, '-m', 'pytest', '--noconftest', '-k', 'not gpu', __file__]
    environment = {**os.environ, 'TRITON_INTERPRET': '1'}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@runs_kernels
@pytest.mark.parametrize('share', [1, 2, 3, 4, 8])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_random(dtype, share):
    draw = random.Random(f'{dtype} {share}')
    size = draw.randint(1, 2), draw.randint(1, 9), draw.randint(1, 9)
    assert_matches(*problem(size, draw.randint(1, 50 // share), share, dtype))


@runs_kernels
def test_several_tiles_and_blocks():
    assert_matches(*problem((1, 9, 10), 9, 4, torch.float32))


@runs_kernels
@pytest.mark.parametrize('share', [40, 2100])
def test_share_beyond_a_tile(share):
    assert_matches(*problem((1, 2, 2), 2, share, torch.float32))


@runs_kernels
@pytest.mark.parametrize(('dtype', 'share'), zip(DTYPES, [8, 3, 2, 1], strict=True), ids=str)
def test_fixed_order(dtype, share, deterministic):
    assert_matches(*problem((1, 2, 3), 33 // share + 1, share, dtype))


@pytest.mark.skipif(not CUDA, reason='the interpreter knows no other order')
def test_same_bits_in_fixed_order_on_gpu(monkeypatch):
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: True)
    x, offset, grad = problem((2, 40, 50), 32, 2, torch.float32)
    assert_matches(x, offset, grad)
    first, *others = (torch.cat([*map(torch.ravel, run(x, offset, grad))]) for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


@runs_kernels
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_special_offsets(dtype, deterministic):
    x, offset, grad = problem((1, 3, 4), 4, 2, dtype)
    inf, nan = float('inf'), float('nan')
    border = [-4, -3.5, -3, -2, -1, -0.5, 0, 0.5, 1, 2, 2.5, 3, 3.5, 4]
    special = torch.tensor([*border, 1e4, -1e4, 1e9, -1e9, 3e38, -3e38, inf, -inf, nan])
    order = torch.arange(offset.numel()) * 5 % len(special)
    assert_matches(x, special[order].view(offset.shape).to(offset), grad)


@runs_kernels
def test_special_values(deterministic):
    x, offset, grad = problem((1, 3, 4), 2, 2, torch.float32)
    for t in (x, grad):
        t.view(-1)[::5] = float('inf')
        t.view(-1)[::7] = float('nan')
    offset.view(-1)[::3] = float('inf')
    offset.view(-1)[1::9] = 0
    for result, wanted in zip(run(x, offset, grad), expected(x, offset, grad), strict=True):
        # An infinite gradient times a difference, or two of them subtracted: spoiled either way.
        result, wanted = (t.where(t.isfinite(), float('nan')) for t in (result, wanted))
        torch.testing.assert_close(result, wanted, equal_nan=True)


@runs_kernels
@pytest.mark.parametrize('size', [(0, 3, 4), (2, 0, 3), (2, 3, 0), (1, 1, 1), (2, 1, 5), (2, 5, 1)])
def test_smallest_sizes(size, deterministic):
    assert_matches(*problem(size, 2, 2, torch.float32))


@runs_kernels
def test_no_channels():
    assert_matches(*problem((2, 3, 4), 2, 0, torch.float32))


@runs_kernels
def test_not_contiguous(deterministic):
    x, offset, grad = problem((2, 3, 2), 3, 2, torch.float32)
    channels_first = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    every_other = torch.stack([offset, offset], dim=-1)[..., 0]
    assert_matches(channels_first, every_other, grad.transpose(1, 2).contiguous().transpose(1, 2))
    assert_matches(x, offset, grad[:1, :1, :1, :1].expand_as(grad))


@runs_kernels
@pytest.mark.parametrize('share', [3, 4])
def test_nothing_outside_is_touched(share, deterministic, monkeypatch):
    """Surround each tensor by NaN: reads would change the results, writes the surroundings."""
    buffers = []

    def surround(shape, dtype, device, value):
        size, margin = torch.Size(shape), 333  # odd: addresses are not aligned either
        buffer = torch.full((size.numel() + 2 * margin,), float('nan'), dtype=dtype, device=device)
        buffers.append((buffer[:margin], buffer[-margin:]))
        return buffer[margin:-margin].view(size).fill_(value)

    def like(tensor):
        return surround(tensor.shape, tensor.dtype, tensor.device, 77)

    def empty(*shape, dtype, device):
        return surround(shape[0] if isinstance(shape[0], torch.Size) else shape, dtype, device, 77)

    def zeros(shape, dtype, device):
        return surround(shape, dtype, device, 0)

    x, offset, grad = inputs = problem((2, 3, 2), 3, share, torch.float32)
    offset.view(-1)[::5] = 1e9
    offset.view(-1)[1::7] = -float('inf')
    results = expected(*inputs)
    x, offset, grad = (like(t).copy_(t) for t in inputs)
    with monkeypatch.context() as patch:
        for name, function in [('empty', empty), ('zeros', zeros), ('empty_like', like)]:
            patch.setattr(backend.torch, name, function)
        found = run(x, offset, grad)
    assert len(buffers) == 11
    assert all(margin.isnan().all() for pair in buffers for margin in pair)
    for result, wanted in zip(found, results, strict=True):
        torch.testing.assert_close(result, wanted)


@pytest.mark.skipif(
    not CUDA or torch.cuda.get_device_properties(0).total_memory < 30e9,
    reason='needs a GPU with 32 GB',
)
def test_more_elements_than_int32_counts_on_gpu():
    x = torch.zeros(1, 4099, 4099, 128, dtype=torch.float16, device='cuda')
    x[0, -2:, -2:] = torch.randn(2, 2, 128, dtype=x.dtype, device='cuda')
    offset = torch.full((1, 4099, 4099, 2), 0.5, dtype=x.dtype, device='cuda')
    out = backend.forward(x, offset)
    grad_x, _ = backend.backward(out, x, offset)
    corner = slice(None), slice(-4, None), slice(-4, None)
    wanted = expected(x[corner], offset[corner], out[corner])
    torch.testing.assert_close(out[corner], wanted[0])
    inner = slice(None), slice(-3, None), slice(-3, None)
    torch.testing.assert_close(grad_x[inner], wanted[1][:, 1:, 1:])


def test_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    spec = importlib.util.spec_from_file_location('mmatm.ops.no_triton', backend.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.is_available()


def test_is_available():
    assert backend.is_available() == (TRITON and (CUDA or INTERPRETED))
