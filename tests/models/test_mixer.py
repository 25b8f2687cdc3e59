"""The mixer against the paper's formula and the published formulation, with gradients."""

import pytest
import torch
from torch import Tensor

from mmatm.models import ActiveTokenMixer
from mmatm.models.published import mixer_forward as published_mixer
from mmatm.ops import active_sample


def plain(mixer: ActiveTokenMixer, x: Tensor, offset: Tensor) -> Tensor:
    """The layer in the order of its formula: three branches, gate from their mean, projection."""
    along_width, along_height = active_sample(x, offset).chunk(2, dim=-1)
    w, h, c = mixer.width(along_width), mixer.height(along_height), mixer.channel(x)
    gate = mixer.gate((w + h + c).mean((1, 2))).reshape(len(x), mixer.dim, 3).softmax(-1)
    a_w, a_h, a_c = gate[:, None, None].unbind(-1)
    return mixer.proj(a_w * w + a_h * h + a_c * c)


@pytest.mark.parametrize(
    ('dim', 'share', 'size'),
    [
        (8, 2, (3, 5)),  # fewer than 3C tokens: branches
        (8, 2, (6, 7)),  # folded
        (16, 4, (1, 1)),
        (4, 1, (2, 6)),  # exactly 3C
        (12, 12, (9, 11)),
    ],
)
@pytest.mark.parametrize('reference', [plain, published_mixer])
def test_equals_the_formula(reference, dim, share, size):
    """The published one uses torchvision's deformable convolution, and no code of the operator."""
    torch.manual_seed(0)
    mixer = ActiveTokenMixer(dim).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, *size, dim).double().requires_grad_()
    offset = (2 * torch.randn(3, *size, 2 * dim // share)).double().requires_grad_()
    inputs = (x, offset, *mixer.parameters())

    out, expected = mixer(x, offset), reference(mixer, x, offset)
    cotangent = torch.randn_like(out)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    grads = torch.autograd.grad(out, inputs, cotangent)
    expected_grads = torch.autograd.grad(expected, inputs, cotangent)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-9, atol=1e-9)


def test_float32_agrees_with_float64():
    torch.manual_seed(0)
    mixer = ActiveTokenMixer(16)
    x, offset = torch.randn(2, 9, 9, 16), torch.randn(2, 9, 9, 8)
    out = mixer(x, offset)
    expected = mixer.double()(x.double(), offset.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [(3, 3), (12, 12)])
def test_bfloat16_autocast(size):
    torch.manual_seed(0)
    mixer = ActiveTokenMixer(16)
    x, offset = torch.randn(2, *size, 16), torch.randn(2, *size, 8)
    with torch.autocast('cpu', torch.bfloat16):
        out = mixer(x, offset.bfloat16())  # the dtype of a linear layer under autocast
    assert out.dtype == torch.bfloat16
    error = (out.float() - mixer(x, offset.bfloat16().float())).norm() / out.float().norm()
    assert error < 2e-2


def test_gate_order_and_normalization():
    # With zero gate weights, the weight of each branch is a third.
    torch.manual_seed(0)
    mixer = ActiveTokenMixer(8)
    torch.nn.init.zeros_(mixer.gate.fc2.weight)
    torch.nn.init.zeros_(mixer.gate.fc2.bias)
    x, offset = torch.randn(1, 4, 4, 8), torch.randn(1, 4, 4, 8)
    along_width, along_height = active_sample(x, offset).chunk(2, dim=-1)
    mean = mixer.width(along_width) + mixer.height(along_height) + mixer.channel(x)
    torch.testing.assert_close(mixer(x, offset), mixer.proj(mean / 3))
    # Then favor one branch after the other.
    for branch, expected in enumerate(
        (mixer.width(along_width), mixer.height(along_height), mixer.channel(x))
    ):
        bias = torch.zeros(8, 3)
        bias[:, branch] = 50
        mixer.gate.fc2.bias.data = bias.flatten()
        torch.testing.assert_close(mixer(x, offset), mixer.proj(expected))
