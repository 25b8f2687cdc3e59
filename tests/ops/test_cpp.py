"""The C++ backend against the reference, in outputs and both gradients."""

import ctypes
import importlib.util
import math
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from marks import compiled
from mmatm.ops import cpp, reference
from sampling import DTYPES, RTOL, problem

pytestmark = compiled

SHARES = [1, 2, 3, 4, 5, 8, 16]
SPECIAL = [math.inf, -math.inf, math.nan, 1e9, -1e9, 1e30, 0.0, 1.0, -1.0, -2.0, 3.0, 0.5]


def sprinkle(tensor, values, seed=0):
    """``tensor`` with ``values`` at a tenth of the places."""
    generator = torch.Generator().manual_seed(seed)
    dice = torch.randint(10 * len(values), tensor.shape, generator=generator)
    for i, value in enumerate(values):
        tensor = tensor.where(dice != i, torch.tensor(value).to(tensor.dtype))
    return tensor


def mean_of(samples, x):
    """The mean over all tokens of ``[samples, x]``, in float32 or float64."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.cat([samples, x], -1).to(dtype).mean((1, 2))


@contextmanager
def threads(number):
    """Set torch's number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_close(results, expected, dtype, factor=1):
    rtol = factor * RTOL[dtype]
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == dtype
        assert result.is_contiguous()
        torch.testing.assert_close(result, wanted.to(dtype), rtol=rtol, atol=rtol, equal_nan=True)


def assert_matches(x, offset, grad):
    """Compare samples, means and all gradients with the reference."""
    grad_mean = torch.linspace(-3, 3, x.shape[0] * 3 * x.shape[3]).to(x.dtype).sin()
    grad_mean = grad_mean.view(x.shape[0], 3 * x.shape[3])
    a, b = (t.detach().requires_grad_() for t in (x, offset))
    samples = reference.active_sample(a, b)
    mean = mean_of(samples, a)
    grads = torch.autograd.grad(samples, (a, b), grad, retain_graph=True)
    # The backend computes in float32 throughout; samples of a half type would be rounded.
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    a, b = (t.detach().to(wide).requires_grad_() for t in (x, offset))
    wide_samples = reference.active_sample(a, b)
    grads_mean = torch.autograd.grad(
        (wide_samples, mean_of(wide_samples, a)), (a, b), (grad.to(wide), grad_mean.to(wide))
    )

    assert_close([cpp.forward(x, offset)], [samples], x.dtype)
    if x.numel():
        assert_close(cpp.forward_mean(x, offset), [samples, mean], x.dtype, 2)
    assert_close(cpp.backward(grad, x, offset), grads, x.dtype, 4)
    assert_close(cpp.backward_mean(grad, grad_mean, x, offset), grads_mean, x.dtype, 4)


@pytest.mark.parametrize('share', SHARES)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_random(dtype, share):
    draw = random.Random(f'{dtype} {share}')
    for seed in range(6):
        size = draw.randint(1, 2), draw.randint(1, 12), draw.randint(1, 12)
        assert_matches(*problem(size, draw.randint(1, 9), share, dtype, draw.uniform(0, 4), seed))


@pytest.mark.parametrize('share', SHARES)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_special_offsets(dtype, share):
    x, offset, grad = problem((2, 7, 6), 5, share, dtype)
    assert_matches(x, sprinkle(offset, SPECIAL), grad)


@pytest.mark.parametrize('share', [1, 2, 3, 4, 8])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_special_x_and_gradients(dtype, share):
    # Times a weight of zero these are NaN. A tap outside the map adds nothing.
    x, offset, grad = problem((2, 7, 6), 5, share, dtype, spread=3)
    offset = sprinkle(offset, [0.0, 1.0, math.inf, -2.0])
    values = [math.inf, -math.inf, math.nan]
    x, grad = sprinkle(x, values, seed=1), sprinkle(grad, values, seed=2)
    a, b = (t.detach().requires_grad_() for t in (x, offset))
    samples = reference.active_sample(a, b)
    assert_close([cpp.forward(x, offset)], [samples], dtype)
    grad_x, grad_offset = torch.autograd.grad(samples, (a, b), grad)
    result_x, result_offset = cpp.backward(grad, x, offset)
    assert_close([result_x], [grad_x], dtype, 4)
    # Here grad * (b - a) may be infinite where the reference's grad * b - grad * a is NaN.
    finite = [g.where(g.isfinite(), math.nan) for g in (result_offset, grad_offset)]
    assert_close(finite[:1], finite[1:], dtype, 4)


@pytest.mark.parametrize('value', [0.0, 1.0, -1.0, 2.0, -5.0, 5.0, 0.25, 4.75, -4.75])
@pytest.mark.parametrize('share', [2, 3])
def test_one_offset_everywhere(share, value):
    x, offset, grad = problem((1, 5, 5), 3, share, torch.float32)
    assert_matches(x, torch.full_like(offset, value), grad)


@pytest.mark.parametrize(
    'size', [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1, 1), (1, 1, 9), (1, 9, 1), (3, 2, 1)]
)
@pytest.mark.parametrize('share', [0, 1, 2, 3, 8])
def test_sizes_zero_and_one(size, share):
    assert_matches(*problem(size, 2, share, torch.float32))


def test_mean_of_no_tokens_is_nan():
    x, offset, _ = problem((2, 0, 4), 3, 2, torch.float32)
    assert cpp.forward_mean(x, offset)[1].isnan().all()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('shape', [(1, 30, 40, 32, 2), (2, 25, 42, 64, 8), (1, 3, 200, 20, 4)])
def test_several_blocks_and_threads(shape, dtype):
    *size, channels, share = shape
    assert_matches(*problem(size, channels // share, share, dtype))


@pytest.mark.parametrize('share', [2, 4, 5])
def test_any_strides(share):
    x, offset, grad = problem((2, 6, 7), 4, share, torch.float32)
    arguments = [
        x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),  # channels first
        torch.stack([offset, offset], -1)[..., 1],  # every other value
        grad[:, :1, :1, :1].expand_as(grad),
    ]
    assert not any(a.is_contiguous() for a in arguments)
    assert_matches(*arguments)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('shape', [(1, 40, 50, 32, 2), (2, 23, 29, 40, 4), (1, 7, 7, 512, 8)])
def test_same_bits_for_any_number_of_threads(shape, dtype):
    *size, channels, share = shape
    x, offset, grad = problem(size, channels // share, share, dtype)
    grad_mean = grad[:, 0, 0, :1].expand(-1, 3 * channels)

    def results():
        return (
            cpp.forward(x, offset),
            *cpp.forward_mean(x, offset),
            *cpp.backward(grad, x, offset),
            *cpp.backward_mean(grad, grad_mean, x, offset),
        )

    with threads(1):
        expected = results()
    for number in (1, 2, 3, 5):
        with threads(number):
            for result, wanted in zip(results(), expected, strict=True):
                assert torch.equal(result, wanted)


X, OFFSET, GRAD = problem((1, 2, 3), 2, 3, torch.float32)
MEAN = torch.zeros(1, 18)


@pytest.mark.parametrize(
    ('function', 'arguments', 'said'),
    [
        (cpp.forward, (X[0], OFFSET), '4 dimensions'),
        (cpp.forward, (X, OFFSET[:, :1]), r'\[1, 1, 3, 4\]'),
        (cpp.forward, (X, OFFSET[..., :3]), 'offset has 3'),
        (cpp.forward, (X[..., :5], OFFSET), 'x has 5'),
        (cpp.forward, (X, OFFSET[..., :0]), 'offset has 0'),
        (cpp.forward, (X, OFFSET.double()), 'one dtype'),
        (cpp.forward, (X.int(), OFFSET.int()), 'floating point'),
        (cpp.forward, (X.to('meta'), OFFSET.to('meta')), 'CPU'),
        (cpp.backward, (GRAD[..., :3], X, OFFSET), 'grad_samples must be'),
        (cpp.backward, (GRAD.double(), X, OFFSET), 'grad_samples must be'),
        (cpp.backward_mean, (GRAD, MEAN[:, :17], X, OFFSET), 'grad_mean must be'),
    ],
)
def test_tensors_that_do_not_fit_are_rejected(function, arguments, said):
    with pytest.raises(ValueError, match=said):
        function(*arguments)


# ---------------------------------------------------------------------------------------- threads

ON_OPENMP = cpp.threading() != 'one thread'
on_openmp = pytest.mark.skipif(not ON_OPENMP, reason='this torch runs on no OpenMP')
LARGE = problem((1, 40, 50), 16, 2, torch.float32)[:2]  # enough for three threads


def test_names_its_instruction_set_and_threads():
    assert cpp.capability() in ('avx2', 'portable')
    assert torch.backends.openmp.is_available() == ON_OPENMP
    assert cpp.threading().startswith('OpenMP of torch (lib' if ON_OPENMP else 'one thread')


@on_openmp
def test_openmp_is_that_of_torch():
    for number in (1, 3, 2):
        with threads(number):
            assert cpp._openmp.omp_get_max_threads() == number


@on_openmp
@pytest.mark.parametrize('torch_first', [True, False])
def test_adds_no_threads_to_those_of_torch(torch_first):
    program = f"""
import os, torch
from mmatm.ops import cpp

def tasks():
    return len(os.listdir('/proc/self/task'))

def run_torch():
    return torch.ones(1 << 20).exp()

def run_cpp():
    x, offset = torch.randn(1, 40, 50, 32), torch.randn(1, 40, 50, 32)
    samples, mean = cpp.forward_mean(x, offset)
    return cpp.backward_mean(samples, mean, x, offset)

torch.set_num_threads(3)
first, second = (run_torch, run_cpp) if {torch_first} else (run_cpp, run_torch)
before = tasks()
first()
assert tasks() == before + 2, 'the first ran on other than 3 threads'
second()
assert tasks() == before + 2, 'the second has threads of its own'
"""
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_works_without_openmp(tmp_path, monkeypatch):
    with threads(3):
        expected = cpp.forward_mean(*LARGE)
        # The system loads a copy of the file as another library, which has no OpenMP yet.
        copy = shutil.copy(cpp._library._name, tmp_path / 'copy.so')
        monkeypatch.setattr(cpp, '_library', cpp._load(Path(copy)))
        monkeypatch.setattr(cpp, '_openmp', None)
        assert cpp.threading() == 'one thread'
        for result, wanted in zip(cpp.forward_mean(*LARGE), expected, strict=True):
            assert torch.equal(result, wanted)


@on_openmp
def test_within_a_parallel_region():
    expected = cpp.forward(*LARGE)
    results = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def region(_):
        results.append(cpp.forward(*LARGE))

    cpp._openmp.GOMP_parallel(region, None, 3, 0)
    assert len(results) == 3
    assert all(torch.equal(result, expected) for result in results)


def test_from_several_threads_of_python():
    expected = cpp.forward_mean(*LARGE)
    with threads(2), ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: cpp.forward_mean(*LARGE), range(40)):
            assert all(map(torch.equal, results, expected))


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return cpp.forward(*LARGE)[0]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system cannot fork')
def test_in_a_forked_worker_of_a_data_loader():
    with threads(3):
        expected = cpp.forward(*LARGE)  # the parent has its threads by now, the worker none
        loader = torch.utils.data.DataLoader(
            Samples(), num_workers=2, multiprocessing_context='fork', timeout=60
        )
        batches = list(loader)
    assert len(batches) == 4
    assert all(torch.equal(batch, expected) for batch in batches)


# ----------------------------------------------------------------------------------- the library


def test_other_libraries_are_rejected(monkeypatch):
    monkeypatch.setattr(cpp, '_ABI', 1000)
    with pytest.raises(OSError, match=r'_kernels\.so belongs to another version.*must be 1000'):
        cpp._load(Path(cpp._library._name))
    with pytest.raises(OSError, match='its interface is none'):
        cpp._load(Path(torch._C.__file__))


@pytest.mark.parametrize('content', [None, b'', b'no library'])
def test_file_that_does_not_load_leaves_the_reason(tmp_path, content):
    if content is not None:
        (tmp_path / '_kernels.so').write_bytes(content)
    copy = shutil.copy(cpp.__file__, tmp_path / 'cpp.py')
    spec = importlib.util.spec_from_file_location('copy_of_cpp', copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.is_available()
    assert '_kernels.so' in module.load_error
    assert module.threading() == 'one thread'


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems name libraries otherwise')
def test_needs_no_library_but_that_of_c():
    content = Path(cpp._library._name).read_bytes()
    for name in (b'libstdc++.so', b'libgomp', b'libtorch', b'libpython'):
        assert name not in content


def test_lack_of_memory_is_an_error():
    with pytest.raises(MemoryError, match='not enough memory'):
        cpp._library.mmatm_backward(3, 1, 2**50, 1, 1, 1, 1, *[None] * 6)
