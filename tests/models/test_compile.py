"""``torch.compile`` and ``torch.export`` of the backbone, over image sizes."""

import shutil

import pytest
import torch

from marks import compiled, compiles
from mmatm.models import ATMNet

TINY = dict(depths=(2, 2, 2, 2), widths=(8, 16, 24, 32), mlp_ratios=(2, 2, 2, 2),
            shares=(2, 4, 4, 8), interval=2)  # fmt: skip
SIZES = [(64, 96), (96, 64), (75, 101), (128, 160), (72, 40)]
SYMBOLIC = torch.__version__ >= (2, 15)  # before, a graph serves one size, see compat.fix_sizes

pytestmark = compiles
with_gxx = pytest.mark.skipif(not shutil.which('g++'), reason='Inductor needs g++')


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tiny(**kwargs) -> ATMNet:
    torch.manual_seed(0)
    return ATMNet(TINY, **kwargs)


def images(size: tuple[int, int], batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def check(compiled_model, model, image, half=False):
    """Outputs and gradients against eager ones."""
    results = []
    for candidate in (compiled_model, model):
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            outputs = candidate(image)
        # Not the squares, whose mean a LayerNorm makes constant.
        loss = sum(o.float().pow(3).mean() for o in outputs)
        results.append((outputs, torch.autograd.grad(loss, list(model.parameters()))))
    (found, grads), (expected, expected_grads) = results
    tolerance = 5e-2 if half else 1e-4
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    # Bfloat16 moves sampling positions across tokens, where the derivative jumps.
    tolerance = 0.5 if half else 1e-3
    for (name, _), one, other in zip(model.named_parameters(), grads, expected_grads, strict=True):
        assert (one - other).norm() <= tolerance * other.norm(), name


@compiled
@with_gxx
def test_inductor_trains_on_any_size():
    """One stage, because Inductor takes many seconds for each."""
    from torch._dynamo.testing import CompileCounterWithBackend

    model = tiny(out_indices=(0,))
    counter = CompileCounterWithBackend('inductor')
    compiled_model = torch.compile(model, backend=counter, fullgraph=True)
    for size in SIZES if SYMBOLIC else SIZES[:2]:
        image = images(size)
        torch._dynamo.maybe_mark_dynamic(image, (2, 3))  # no graph for the first size alone
        check(compiled_model, model, image)
    assert counter.frame_count == (1 if SYMBOLIC else 2)


@compiled
@with_gxx
def test_inductor_under_autocast():
    model = tiny(out_indices=(0,)).eval()
    compiled_model = torch.compile(model, fullgraph=True)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        found, expected = compiled_model(images(SIZES[0])), model(images(SIZES[0]))
    torch.testing.assert_close(found, expected, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize('half', [False, True])
def test_two_graphs_serve_all_sizes(half):
    from torch._dynamo.testing import CompileCounterWithBackend

    model = tiny(out_indices=(0,))
    counter = CompileCounterWithBackend('aot_eager')
    compiled_model = torch.compile(model, backend=counter, fullgraph=True)
    for size in SIZES if SYMBOLIC else SIZES[:3]:
        check(compiled_model, model, images(size), half)
    assert counter.frame_count == (2 if SYMBOLIC else 3)


def test_export_with_dynamic_batch_and_size():
    model = tiny(out_indices=(0, 1)).eval()
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        model, (images(SIZES[0]),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)
    ).module()
    for batch, size in enumerate(SIZES, 1):
        image = images(size, batch)
        torch.testing.assert_close(exported(image), model(image), rtol=1e-4, atol=1e-4)
