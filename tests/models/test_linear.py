"""Linear layers as convolutions against PyTorch's own, in outputs and gradients."""

import pytest
import torch
import torch.nn.functional as F

from mmatm.models import linear as module
from mmatm.models.linear import Linear, linear, linear_backward, linear_is_convolution


@pytest.fixture(autouse=True, params=['convolution', 'linear'])
def form(request, monkeypatch):
    """Both forms, whatever the processor."""
    convolves = request.param == 'convolution'
    if convolves and not torch.backends.mkldnn.is_available():
        pytest.skip('torch was built without oneDNN')
    monkeypatch.setattr(module, 'onednn_is_faster', lambda: convolves)
    return request.param


@pytest.mark.parametrize(
    ('cpuinfo', 'faster'),
    [
        ('vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t: 2\n', True),
        ('vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t: 17\n', False),
        ('vendor_id\t: GenuineIntel\ncpu family\t: 26\n', False),
        ('Processor\t: ARM\n', False),
        (None, False),
    ],
)
def test_which_processors(cpuinfo, faster, monkeypatch, tmp_path):
    monkeypatch.undo()
    file = tmp_path / 'cpuinfo'
    if cpuinfo:
        file.write_text(cpuinfo)
    monkeypatch.setattr(module, 'Path', lambda _: file)
    assert module.onednn_is_faster.__wrapped__() is (faster and torch.backends.mkl.is_available())


def test_which_products_are_convolutions(form):
    large = torch.zeros(1, 20, 20, 64)
    assert linear_is_convolution(large) is (form == 'convolution')
    assert not linear_is_convolution(large[:, :4])
    assert not linear_is_convolution(large.double())
    with torch.autocast('cpu', torch.bfloat16):
        assert not linear_is_convolution(large)  # it is cast first


@pytest.mark.parametrize('size', [(20, 40), (3, 3)])
def test_bfloat16(size):
    torch.manual_seed(0)
    layer, x = Linear(32, 48), torch.randn(*size, 32)
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('size', [(2, 33, 17), (1100,), (1, 2), (2, 1, 700)])
@pytest.mark.parametrize('bias', [True, False])
def test_equals_f_linear(size, bias):
    torch.manual_seed(0)
    layer = Linear(32, 48, bias=bias)
    x = torch.randn(*size, 32, requires_grad=True)
    out, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    inputs, cotangent = (x, *layer.parameters()), torch.randn_like(out)
    grads = torch.autograd.grad(out, inputs, cotangent)
    expected_grads = torch.autograd.grad(expected, inputs, cotangent)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-4)


def test_any_strides():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 40, 60, 32).transpose(1, 2), torch.randn(8, 32)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    part, weight = x[..., 5:21], weight[:, 3:19]
    torch.testing.assert_close(linear(part, weight), F.linear(part, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('tokens', [900, 3])
def test_backward(tokens):
    torch.manual_seed(0)
    x, weight = torch.randn(tokens, 32), torch.randn(24, 32, requires_grad=True)
    bias, grad = torch.zeros(24, requires_grad=True), torch.randn(tokens, 24)
    x.requires_grad_()
    expected = torch.autograd.grad(F.linear(x, weight, bias), (x, weight, bias), grad)
    grads = linear_backward(grad, x.detach(), weight.detach())
    torch.testing.assert_close(grads, expected, rtol=1e-4, atol=1e-4)
