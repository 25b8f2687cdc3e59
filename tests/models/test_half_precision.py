"""What half precision changes in outputs and gradients, and what it cost before."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from marks import float16_on_cpu
from mmatm.models import ATMNet, mixer
from reference import published_state_dict

SIZE = 1, 3, 96, 128
BOUNDS = {torch.bfloat16: (0.03, 0.5), torch.float16: (0.004, 0.2)}
FLOAT16 = pytest.param(torch.float16, marks=float16_on_cpu)


@pytest.fixture(autouse=True)
def autocast_as_on_cuda(monkeypatch):
    """There it makes every LayerNorm float32; on a CPU it leaves half precision as it is."""

    def forward(norm, x):
        x = x if x.dtype == torch.float64 else x.float()
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    monkeypatch.setattr(nn.LayerNorm, 'forward', forward)


def results(model, image, dtype=None):
    """Outputs and gradients of the parameters, as two vectors."""
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        outputs = model(image)
    loss = sum(o.float().pow(3).mean() for o in outputs)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [torch.cat([t.double().flatten() for t in ts]) for ts in (outputs, gradients)]


@pytest.mark.parametrize('dtype', [torch.bfloat16, FLOAT16])
def test_error_is_that_of_the_products(dtype, monkeypatch):
    """Sampling in half precision adds little to what autocast's matrix products round anyway."""
    torch.manual_seed(0)
    model = ATMNet('xt')
    model.load_state_dict(published_state_dict('xt'))
    image = torch.randn(SIZE)
    exact = results(model, image)
    found = results(model, image, dtype)
    # As if autocast were off where the mixer looks: it then samples the LayerNorm's float32.
    monkeypatch.setattr(mixer, 'autocast_dtype', lambda device: None)
    before = results(model, image, dtype)
    for name, one, other, right, bound in zip(
        ('outputs', 'gradients'), found, before, exact, BOUNDS[dtype], strict=True
    ):
        error, old = ((r - right).norm() / right.norm() for r in (one, other))
        print(f'{dtype} {name}: relative error {error:.2e}, sampling in float32 {old:.2e}')
        assert one.isfinite().all()
        assert error < bound
        assert error < 1.25 * old


@pytest.mark.parametrize('dtype', [torch.bfloat16, FLOAT16])
def test_samples_and_their_gradients_are_half(dtype, monkeypatch):
    seen = []
    for name in ('active_sample', 'active_sample_mean'):
        function = getattr(mixer, name)
        monkeypatch.setattr(
            mixer, name, lambda x, o, f=function: seen.append((x.dtype, o.dtype)) or f(x, o)
        )
    model = ATMNet('xt')
    with torch.autocast('cpu', dtype):
        model(torch.randn(SIZE))
    assert set(seen) == {(dtype, dtype)}
    seen.clear()
    model(torch.randn(SIZE))
    with torch.autocast('cpu', dtype):
        model.double()(torch.randn(SIZE).double())
    assert set(seen) == {(torch.float32, torch.float32), (torch.float64, torch.float64)}
