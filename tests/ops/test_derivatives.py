"""``torch.func`` and higher derivatives of the operator, of its layers and of the backbone."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from mmatm.models import mlp
from mmatm.models.mlp import ChannelMlp
from mmatm.models.trunk import Trunk
from mmatm.ops import active_sample, active_sample_mean, available_backends

BACKENDS = available_backends('cpu')
TINY = dict(depths=(2, 2, 2, 2), widths=(8, 12, 16, 24), mlp_ratios=(2, 2, 2, 2),
            shares=(2, 4, 4, 8), interval=2)  # fmt: skip


def arguments(*batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens ``[*batch, 4, 5, 4]`` and their offsets, none of which ends near a token."""
    torch.manual_seed(0)
    offset = torch.randint(-3, 4, (*batch, 4, 5, 4)) + 0.2 + 0.6 * torch.rand(*batch, 4, 5, 4)
    return torch.randn(*batch, 4, 5, 4).double(), offset.double()


def both(x, offset, backend):
    """Samples and means of a backend as one tensor."""
    samples, mean = active_sample_mean(x, offset, backend)
    return torch.cat([active_sample(x, offset, backend).flatten(), samples.flatten() * 2,
                      mean.flatten()]).sin()  # fmt: skip


@pytest.mark.parametrize('backend', BACKENDS)
def test_first_and_second_derivatives(backend):
    inputs = [a.requires_grad_() for a in arguments(1)]
    for function in (active_sample, active_sample_mean):
        assert gradcheck(lambda *a, f=function: f(*a, backend), inputs, check_forward_ad=True)
        assert gradgradcheck(lambda *a, f=function: f(*a, backend), inputs)


def test_third_derivative():
    x, offset = (a.requires_grad_() for a in arguments(1))

    def third(backend):
        first = torch.autograd.grad(both(x, offset, backend).sum(), (x, offset), create_graph=True)
        total = sum(g.square().sum() for g in first)
        second = torch.autograd.grad(total, (x, offset), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in second), (x, offset))

    torch.testing.assert_close(third(BACKENDS[0]), third('reference'))


@pytest.mark.parametrize(
    'transform',
    ['grad', 'jvp', 'vjp', 'jacrev', 'jacfwd', 'vmap', 'vmap_grad', 'vmap_vmap', 'grad_vmap',
     'hessian'],
)  # fmt: skip
def test_transforms_equal_those_of_plain_torch(transform):
    x, offset = arguments(3, 1)
    tangents = torch.ones_like(x[0]), offset[0].cos()

    def apply(backend):
        def function(x, offset):
            return both(x, offset, backend)

        def total(x, offset):
            return function(x, offset).square().sum()

        return {
            'grad': lambda: grad(total, (0, 1))(x[0], offset[0]),
            'jvp': lambda: jvp(function, (x[0], offset[0]), tangents),
            'vjp': lambda: vjp(total, x[0], offset[0])[1](torch.tensor(1.0).double()),
            'jacrev': lambda: jacrev(function, (0, 1))(x[0], offset[0]),
            'jacfwd': lambda: jacfwd(function, (0, 1))(x[0], offset[0]),
            'vmap': lambda: vmap(function, (0, None))(x, offset[0]),
            'vmap_grad': lambda: vmap(grad(total, (0, 1)))(x, offset),
            'vmap_vmap': lambda: vmap(vmap(function, (0, None)), (None, 0))(x, offset),
            'grad_vmap': lambda: grad(lambda x: vmap(function)(x, offset).square().sum())(x),
            'hessian': lambda: hessian(total, (0, 1))(x[0], offset[0]),
        }[transform]()

    torch.testing.assert_close(apply(BACKENDS[0]), apply('reference'))


def test_forward_mode_without_torch_func():
    x, offset = arguments(1)
    results = []
    for backend in (BACKENDS[0], 'reference'):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            results.append(forward_ad.unpack_dual(both(dual, offset, backend)).tangent)
    torch.testing.assert_close(*results)


class LastMap(Trunk):
    def forward(self, x):
        *_, last = self.forward_stages(x)
        return last


@pytest.fixture
def backbone(monkeypatch):
    """A float64 trunk whose MLPs are tiled and whose offsets are far from whole tokens."""
    monkeypatch.setattr(mlp, '_LARGE', 0)
    torch.manual_seed(0)
    model = LastMap(TINY).double()
    for name, parameter in model.named_parameters():
        if '.offset.1.' in name:
            nn.init.uniform_(parameter, -0.01, 0.01)
            if name.endswith('bias'):
                parameter.data += 0.4
    return model


def test_backbone(backbone):
    images = torch.randn(3, 3, 40, 48).double()
    parameters = dict(backbone.named_parameters())

    def loss(parameters, image):
        return functional_call(backbone, parameters, (image[None],)).square().mean()

    expected = []
    for image in images:
        grads = torch.autograd.grad(loss(parameters, image), list(parameters.values()))
        expected.append(dict(zip(parameters, grads, strict=True)))

    frozen = {name: p.detach() for name, p in parameters.items()}
    torch.testing.assert_close(grad(loss)(frozen, images[0]), expected[0])
    every = vmap(grad(loss), (None, 0))(frozen, images)
    for name in parameters:
        torch.testing.assert_close(every[name], torch.stack([e[name] for e in expected]))
    torch.testing.assert_close(vmap(lambda i: backbone(i[None]))(images)[:, 0], backbone(images))

    tangents = {name: torch.randn_like(p) for name, p in frozen.items()}
    _, slope = jvp(lambda p: loss(p, images[0]), (frozen,), (tangents,))
    inner = sum((expected[0][name] * t).sum() for name, t in tangents.items())
    torch.testing.assert_close(slope, inner)


def test_second_derivative_of_the_backbone(backbone):
    image = torch.randn(1, 3, 40, 48).double().requires_grad_()
    direction = torch.randn_like(image)

    def slope(image, create_graph=False):
        (found,) = torch.autograd.grad(backbone(image).square().mean(), image,
                                       create_graph=create_graph)  # fmt: skip
        return (found * direction).sum()

    (curvature,) = torch.autograd.grad(slope(image, create_graph=True), image)
    step = 1e-6 * direction
    difference = (slope(image + step) - slope(image - step)) / 2e-6
    torch.testing.assert_close((curvature * direction).sum(), difference, rtol=1e-4, atol=1e-9)


def test_second_derivatives_of_the_tiled_mlp(monkeypatch):
    monkeypatch.setattr(mlp, '_LARGE', 0)
    monkeypatch.setattr(mlp, '_TILE', 8 * 6 * 4)
    torch.manual_seed(0)
    layer = ChannelMlp(3, 6).double()
    inputs = torch.randn(2, 3, 3).double().requires_grad_(), *layer.parameters()

    def function(x, *parameters):
        names = [name for name, _ in layer.named_parameters()]
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert 'TiledMlp' in function(*inputs).grad_fn.name()
    assert gradgradcheck(function, inputs)
