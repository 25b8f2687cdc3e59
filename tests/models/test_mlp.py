"""The tiled MLP against timm's, in outputs and gradients."""

import pytest
import torch
from timm.layers import Mlp

from mmatm.models import mlp
from mmatm.models.mlp import ChannelMlp


@pytest.mark.parametrize('tokens', [(2, 7, 9), (1, 1, 1), (3, 4, 4)])
def test_tiles_equal_the_whole(tokens, monkeypatch):
    torch.manual_seed(0)
    plain = Mlp(6, 24).double()
    tiled = ChannelMlp(6, 24).double()
    tiled.load_state_dict(plain.state_dict())
    monkeypatch.setattr(mlp, '_LARGE', 0)
    monkeypatch.setattr(mlp, '_TILE', 8 * 24 * 5)  # 5 tokens, so the last tile is a partial one
    x = torch.randn(*tokens, 6).double().requires_grad_()

    out, expected = tiled(x), plain(x)
    assert 'TiledMlp' in out.grad_fn.name()
    torch.testing.assert_close(out, expected)
    cotangent = torch.randn_like(out)
    grads = torch.autograd.grad(out, (x, *tiled.parameters()), cotangent)
    expected_grads = torch.autograd.grad(expected, (x, *plain.parameters()), cotangent)
    torch.testing.assert_close(grads, expected_grads)


def test_default_device_is_not_used(monkeypatch):
    monkeypatch.setattr(mlp, '_LARGE', 0)
    x = torch.randn(2, 3, 3, 6)
    tiled = ChannelMlp(6, 24)
    with torch.device('meta'):
        assert tiled(x).is_cpu


def test_small_maps_take_the_plain_way():
    out = ChannelMlp(6, 24)(torch.randn(2, 3, 3, 6))
    assert 'TiledMlp' not in out.grad_fn.name()


def test_float32_tiles_agree_with_float64(monkeypatch):
    torch.manual_seed(0)
    tiled = ChannelMlp(32, 64)
    monkeypatch.setattr(mlp, '_LARGE', 0)
    monkeypatch.setattr(mlp, '_TILE', 4 * 64 * 800)
    x = torch.randn(2, 35, 30, 32, requires_grad=True)
    out = tiled(x)
    cotangent = torch.randn_like(out)
    grads = torch.autograd.grad(out, (x, *tiled.parameters()), cotangent)
    tiled.double()
    expected = tiled(x.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    expected_grads = torch.autograd.grad(expected, (x, *tiled.parameters()), cotangent.double())
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad.double(), wanted.double(), rtol=1e-4, atol=1e-4)
