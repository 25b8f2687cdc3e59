"""Kernels are compared with plain PyTorch at their first use, and replaced if they are wrong."""

import warnings

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from marks import compiled, compiles
from mmatm.models import ATMNet
from mmatm.ops import active_sample, active_sample_mean, checked, cpp, triton
from sampling import DTYPES

pytestmark = compiled


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(checked, '_works', {})
    monkeypatch.delenv('MMATM_CHECK', raising=False)


def spoil(monkeypatch, function, spoiled):
    """Make a kernel of the C++ backend wrong by 0.5 in one value."""
    kernel = getattr(cpp, function)

    def wrong(*args):
        results = kernel(*args)
        (results if isinstance(results, torch.Tensor) else results[spoiled]).view(-1)[3] += 0.5
        return results

    monkeypatch.setattr(cpp, function, wrong)


def inputs(dtype=torch.float32, requires_grad=True):
    torch.manual_seed(0)
    x, offset = torch.randn(2, 5, 6, 8), 2 * torch.randn(2, 5, 6, 4)
    return [t.to(dtype).requires_grad_(requires_grad) for t in (x, offset)]


def run(backend, x, offset):
    """Everything that the four kernels compute."""
    samples = active_sample(x, offset, backend)
    others, mean = active_sample_mean(x, offset, backend)
    loss = samples.square().sum() + others.pow(3).sum() + mean.sum()
    return samples, others, mean, *torch.autograd.grad(loss, (x, offset))


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(
    ('function', 'spoiled'),
    [('forward', 0), ('forward_mean', 0), ('forward_mean', 1),
     ('backward', 0), ('backward', 1), ('backward_mean', 0), ('backward_mean', 1)],
)  # fmt: skip
def test_wrong_kernel_is_replaced(function, spoiled, dtype, monkeypatch):
    spoil(monkeypatch, function, spoiled)
    expected = run('reference', *inputs(dtype))
    with pytest.warns(UserWarning, match=rf'cpu, because {function} of its cpp .*by 0\.\d+ where'):
        found = run('cpp', *inputs(dtype))
    tolerance = 32 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # it is said once
        run('cpp', *inputs(dtype))


def test_kernel_that_fails_is_replaced(monkeypatch):
    def fail(*args):
        raise RuntimeError('ptxas\nis missing')

    monkeypatch.setattr(cpp, 'forward', fail)
    x, offset = inputs()
    with pytest.warns(UserWarning, match='fails with RuntimeError: ptxas is missing'):
        out = active_sample(x, offset)
    torch.testing.assert_close(out, active_sample(x, offset, 'reference'))


@pytest.mark.parametrize(
    'error',
    [MemoryError(), torch.cuda.OutOfMemoryError(), RuntimeError('Triton Error: out of memory')],
    ids=repr,
)
def test_lack_of_memory_is_no_fault(error, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr(cpp, 'forward', fail)
    with pytest.raises((MemoryError, torch.cuda.OutOfMemoryError)):
        active_sample(*inputs())
    assert not checked._works


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_right_kernels_serve(dtype, monkeypatch):
    x, offset = inputs(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        run('cpp', x, offset)
    assert {key[1] for key in checked._works} == set(checked.DEFINITIONS)
    for function in checked.DEFINITIONS:
        monkeypatch.setitem(checked.DEFINITIONS, function, pytest.fail)
    run('cpp', x, offset)


def test_turned_off(monkeypatch):
    monkeypatch.setenv('MMATM_CHECK', '0')
    spoil(monkeypatch, 'forward', 0)
    x, offset = inputs()
    wrong = active_sample(x, offset)
    assert not checked._works
    assert (wrong - active_sample(x, offset, 'reference')).abs().max() > 0.4


def test_random_numbers_stay_as_they_are():
    x, offset = inputs(requires_grad=False)
    state = torch.get_rng_state()
    active_sample(x, offset)
    assert checked._works
    assert torch.equal(torch.get_rng_state(), state)


def test_arguments_that_do_not_fit_are_left_to_the_kernel():
    x, offset = inputs(requires_grad=False)
    for wrong in (x[0], x[..., :3]):
        with pytest.raises(ValueError, match='but'):
            torch.ops.mmatm.active_sample(wrong, offset, 'cpp')
    assert torch.ops.mmatm.active_sample(x[:0], offset[:0], 'cpp').numel() == 0
    assert not checked._works


def loss(x, offset):
    samples, mean = active_sample_mean(x, offset)
    return samples.pow(3).sum() + mean.sum()


def differentiate(x, offset):
    return torch.autograd.grad(loss(x, offset), (x, offset))


def in_inference_mode(x, offset):
    with torch.inference_mode():
        active_sample_mean(x, offset)
    return differentiate(x, offset)


def under_autocast(x, offset):
    with torch.autocast('cpu', torch.bfloat16):
        return differentiate(x, offset)


def in_checkpoint(x, offset):
    checkpoint(loss, x, offset, use_reentrant=False).backward()
    return x.grad, offset.grad


def in_grad(x, offset):
    return grad(loss, (0, 1))(x.detach(), offset.detach())


def in_vmap(x, offset):
    grads = vmap(grad(loss, (0, 1)))(x.detach()[:, None], offset.detach()[:, None])
    return tuple(g[:, 0] for g in grads)


@pytest.mark.parametrize(
    'use', [in_inference_mode, under_autocast, in_checkpoint, in_grad, in_vmap]
)
def test_first_use_anywhere(use, monkeypatch):
    """In a context that changes what torch's functions do, the verdict is the same."""
    expected = differentiate(*inputs())
    checked._works.clear()
    spoil(monkeypatch, 'forward_mean', 0)
    spoil(monkeypatch, 'backward_mean', 0)
    with pytest.warns(UserWarning, match='forward_mean of its cpp'):
        found = use(*inputs())
    assert list(checked._works.values()) == [False, False]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@compiles
def test_compiled_code_checks_when_it_runs(monkeypatch):
    spoil(monkeypatch, 'backward_mean', 1)
    x, offset = inputs()
    function = torch.compile(loss, fullgraph=True, backend='aot_eager')
    value = function(x, offset)
    with pytest.warns(UserWarning, match='backward_mean of its cpp'):
        found = torch.autograd.grad(value, (x, offset))
    samples, mean = active_sample_mean(x, offset, 'reference')
    value = samples.pow(3).sum() + mean.sum()
    torch.testing.assert_close(found, torch.autograd.grad(value, (x, offset)))


@compiles  # before, fake CUDA tensors asked for a driver
@pytest.mark.parametrize('serving', ['triton', 'reference'])
@pytest.mark.parametrize('dtype', [None, torch.bfloat16, torch.float16])
def test_forward_pass_on_a_gpu_never_waits_for_it(serving, dtype, monkeypatch):
    """Fake tensors have no values, so reading one, as ``nonzero`` and ``item`` do, is an error."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    monkeypatch.setattr(triton, 'is_available', lambda: serving == 'triton')
    # Without a GPU, torch turns autocast for GPUs off.
    monkeypatch.setattr(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)
    tiny = dict(depths=(2, 2, 2, 2), widths=(8, 12, 16, 24), mlp_ratios=(2, 2, 2, 2),
                shares=(2, 4, 4, 8), interval=2)  # fmt: skip
    model = ATMNet(tiny, drop_path_rate=0.2)
    with FakeTensorMode():
        parameters = {
            name: torch.empty(value.shape, device='cuda').requires_grad_()
            for name, value in model.named_parameters()
        }
        image = torch.empty(2, 3, 224, 160, device='cuda')
        with torch.autocast('cuda', dtype, enabled=dtype is not None):
            assert torch.is_autocast_enabled('cuda') == (dtype is not None)
            outputs = functional_call(model, parameters, image)
        total = sum(o.float().sum() for o in outputs)
        with pytest.raises(DataDependentOutputException):
            total.item()
    assert all(o.is_cuda for o in outputs)
