"""The operator as PyTorch sees it: dispatch, compilation, export, autocast."""

import warnings

import pytest
import torch

from marks import compiled, compiles
from mmatm import ops
from mmatm.ops import active_sample, active_sample_mean, available_backends, cpp, sampling
from mmatm.ops.sampling import _forward, _forward_mean


def arguments(requires_grad=True):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, 8, requires_grad=requires_grad)
    offset = torch.randn(2, 5, 6, 8, requires_grad=requires_grad)
    return x, offset


def test_available_backends():
    available = available_backends('cpu')
    assert 'reference' in available
    assert ('cpp' in available) == cpp.is_available()
    assert available_backends(torch.device('meta')) == ('reference',)


@pytest.mark.parametrize('backend', ['fast', 'cuda', ''])
def test_unknown_backend_is_named(backend):
    with pytest.raises(ValueError, match=f'reference.*{backend!r}'):
        active_sample(*arguments(), backend=backend)


@pytest.mark.parametrize('backend', available_backends('cpu'))
def test_every_backend_gives_samples_means_and_gradients(backend):
    x, offset = arguments()
    out, mean = active_sample_mean(x, offset, backend=backend)
    expected = active_sample(x, offset, backend='reference')
    expected_mean = torch.cat([expected.mean((1, 2)), x.mean((1, 2))], 1)
    torch.testing.assert_close(active_sample(x, offset, backend=backend), expected)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(mean, expected_mean)
    cotangents = (torch.randn_like(out), torch.randn_like(mean))
    grads = torch.autograd.grad((out, mean), (x, offset), cotangents)
    expected_grads = torch.autograd.grad((expected, expected_mean), (x, offset), cotangents)
    torch.testing.assert_close(grads, expected_grads)


@compiled
@compiles
def test_opcheck():
    torch.library.opcheck(_forward, (*arguments(), 'cpp'))
    torch.library.opcheck(_forward_mean, (*arguments(), 'cpp'))


@compiles
@pytest.mark.parametrize('backend', available_backends('cpu'))
def test_compiles_without_a_graph_break(backend):
    x, offset = arguments()

    def function(x, offset):
        return active_sample(x, offset, backend=backend).square().sum()

    compiled_function = torch.compile(function, fullgraph=True, backend='aot_eager')
    grads = torch.autograd.grad(compiled_function(x, offset), (x, offset))
    torch.testing.assert_close(grads, torch.autograd.grad(function(x, offset), (x, offset)))


@compiles
def test_default_backend_compiles_and_exports():
    class Module(torch.nn.Module):
        def forward(self, x, offset):
            samples, mean = active_sample_mean(x, offset)
            return samples + active_sample(x, offset), mean

    inputs = arguments(requires_grad=False)
    expected = Module()(*inputs)
    compiled_module = torch.compile(Module(), fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled_module(*inputs), expected)
    exported = torch.export.export(Module(), inputs)
    torch.testing.assert_close(exported.module()(*inputs), expected)


@compiled
def test_operator_is_differentiable_by_its_own_name():
    x, offset = arguments()
    out = torch.ops.mmatm.active_sample(x, offset, 'cpp')
    grads = torch.autograd.grad(out.square().sum(), (x, offset))
    expected = torch.autograd.grad(active_sample(x, offset).square().sum(), (x, offset))
    torch.testing.assert_close(grads, expected, rtol=0, atol=0)


def test_fake_tensors_get_the_shapes():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        samples, mean = active_sample_mean(torch.empty(2, 3, 4, 6), torch.empty(2, 3, 4, 4))
    assert samples.shape == (2, 3, 4, 12)
    assert mean.shape == (2, 18)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_dtype_of_x(dtype):
    x, offset = (a.to(dtype) for a in arguments())
    with torch.autocast('cpu', torch.bfloat16):
        assert active_sample(x, offset).dtype == dtype


@pytest.mark.parametrize('wanted', ['0', None])
def test_missing_library_is_said_once(wanted, monkeypatch):
    monkeypatch.setattr(cpp, '_library', None)
    monkeypatch.setattr(sampling, '_warned', set())
    if wanted:
        monkeypatch.setenv('MMATM_BUILD_OPS', wanted)
    else:
        monkeypatch.delenv('MMATM_BUILD_OPS', raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(2):
            ops.active_sample(*arguments())
    assert len(caught) == (0 if wanted else 1)
    if caught:
        assert 'pip install' in str(caught[0].message)


def test_missing_triton_is_said_once_on_cuda(monkeypatch):
    monkeypatch.setattr(sampling, '_warned', set())
    monkeypatch.setattr(sampling.triton, 'is_available', lambda: False)
    with pytest.warns(UserWarning, match='on cuda: Triton 3 is missing'):
        sampling._warn_when_slow('cuda')
    sampling._warn_when_slow('cuda')  # errors if it warns again
