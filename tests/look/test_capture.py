"""mmatm.look.capture: positions and gates are those that the model used."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import mmatm  # noqa: F401  registers the timm models
from mmatm.look import LookError, capture
from mmatm.models import ATMNet

TOLERANCE = 1e-5


def model_with_offsets(make):
    """A model that samples several tokens away, and beyond the map."""
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.5 * module.in_features**-0.5)
    return model


def read_at(x, columns, rows):
    """``x [1, H, W, C]`` at positions ``[H, W, G]`` of each token's row and column, by torch."""
    _, height, width, channels = x.shape
    groups = columns.shape[-1]
    own_rows, own_columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    samples = []
    for x_of, y_of in (
        (columns, own_rows[..., None].expand_as(columns)),
        (own_columns[..., None].expand_as(rows), rows),
    ):
        grid = torch.stack([2 * x_of / (width - 1) - 1, 2 * y_of / (height - 1) - 1], dim=-1)
        values = x[0].permute(2, 0, 1).unflatten(0, (groups, channels // groups)).double()
        samples.append(
            F.grid_sample(values, grid.permute(2, 0, 1, 3).double(), align_corners=True)
            .flatten(0, 1)
            .permute(1, 2, 0)
        )
    return [s.float()[None] for s in samples]


@pytest.mark.parametrize(
    'make', [lambda: ATMNet('xt'), lambda: timm.create_model('atmnet_xt', num_classes=3)]
)
def test_positions_and_gates_give_the_output_of_each_mixer(make):
    model = model_with_offsets(make)
    seen = []
    for stage in model.stages:
        for block in stage.blocks:
            block.mixer.register_forward_hook(lambda m, i, o: seen.append((m, i[0], o)))
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad(), capture(model) as captured:
        model(image)
    assert torch.equal(captured.image, image[0])
    assert len(captured.blocks) == len(seen) == sum(model.arch['depths'])
    outside = 0
    for block, (mixer, x, output) in zip(captured.blocks, seen, strict=True):
        columns, rows = block.positions()
        outside += ((columns < 0) | (columns > columns.shape[1] - 1)).sum()
        along_width, along_height = read_at(x, columns, rows)
        a = block.gate
        assert a.sum(-1) == pytest.approx(1, abs=TOLERANCE)
        with torch.no_grad():
            mixed = a[:, 0] * mixer.width(along_width) + a[:, 1] * mixer.height(along_height)
            expected = mixer.proj(mixed + a[:, 2] * mixer.channel(x))
        scale = output.abs().max()
        torch.testing.assert_close(output / scale, expected / scale, rtol=0, atol=TOLERANCE)
    assert outside


def test_blocks_share_offsets_as_in_the_model():
    model = ATMNet('t')
    with torch.no_grad(), capture(model) as captured:
        model(torch.rand(1, 3, 32, 32))
    generating = [(b.stage, b.index) for b in captured.blocks if b.generates]
    assert generating == [(0, 0), (1, 0), *((2, i) for i in range(0, 9, 2)), (3, 0)]
    for before, block in zip(captured.blocks, captured.blocks[1:], strict=False):
        assert block.generates or block.offset is before.offset


def test_the_model_is_left_as_it_was():
    model = model_with_offsets(lambda: ATMNet('xt'))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(image)
        with capture(model):
            during = model(image)
    assert all(map(torch.equal, before, during))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    model = model_with_offsets(lambda: ATMNet('xt'))
    image = torch.rand(1, 3, 64, 64)
    found = []
    for device in ('cpu', 'cuda'):
        with torch.no_grad(), capture(model.to(device)) as captured:
            model(image.to(device))
        found.append([position.cpu() for b in captured.blocks for position in b.positions()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


@pytest.mark.parametrize('batches', [[2], [1, 1]])
def test_more_than_one_image_is_rejected(batches):
    model = ATMNet('xt')

    def run():
        with torch.no_grad(), capture(model):
            for size in batches:
                model(torch.rand(size, 3, 32, 32))

    with pytest.raises(LookError):
        run()


def test_a_model_without_atmnet_is_rejected():
    with pytest.raises(LookError, match='ATMNet'), capture(nn.Linear(2, 2)):
        pass
