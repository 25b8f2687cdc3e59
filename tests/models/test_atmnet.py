"""ATMNet against published values, and what mm users expect from a backbone."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from mmatm.checkpoints import translate_name
from mmatm.models import ARCHS, ATMNet
from reference import DATA, FEATURES, published_state_dict, weights

PARAMETERS = {'xt': 14837152, 't': 26640256, 's': 38119472, 'b': 51642816, 'l': 75470376}
TINY = dict(depths=(2, 2, 3, 2), widths=(8, 16, 24, 32), mlp_ratios=(2, 2, 2, 2),
            shares=(2, 4, 4, 8), interval=2)  # fmt: skip


@pytest.mark.parametrize('arch', ARCHS)
def test_parameter_count(arch):
    with torch.device('meta'):
        model = MODELS.build(dict(type='ATMNet', arch=arch))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]


@pytest.mark.parametrize('arch', FEATURES)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_published_features_and_gradients(arch, dtype, tolerance):
    file, size = FEATURES[arch]
    stored = np.load(DATA / file)
    model = ATMNet(arch).to(dtype)
    model.load_state_dict(published_state_dict(arch, dtype=dtype))
    image = torch.from_numpy(weights.image(*size)).to(dtype).requires_grad_()

    outputs = model(image)
    for i, output in enumerate(outputs):
        assert list(output.shape) == stored[f'level{i}_shape'].tolist()
        close(weights.sample(f'level{i}', output.detach().numpy()), stored[f'level{i}'], tolerance)
        assert output.mean().item() == pytest.approx(stored[f'level{i}_mean'], abs=tolerance)
        assert output.std(correction=0).item() == pytest.approx(
            stored[f'level{i}_std'], rel=tolerance
        )
    if 'grad_image' not in stored:
        return

    if dtype == torch.float32:
        # The derivative jumps where a sampling position is an integer. Some of tens of thousands of
        # positions lie within float32's rounding of one (1e-6 away in t, 6e-6 in xt), and on which
        # side they fall depends on the processor. In float64 all gradients agree to 1e-9.
        tolerance = 2e-2
    sum(
        (output * torch.from_numpy(weights.cotangent(i, tuple(output.shape))).to(dtype)).sum()
        for i, output in enumerate(outputs)
    ).backward()
    close(weights.sample('grad_image', image.grad.numpy()), stored['grad_image'], tolerance)
    parameters = dict(model.named_parameters())
    checked = set()
    for key in stored:
        kind, _, name = key.partition(':')
        if not name:
            continue
        own_name = translate_name(name)
        grad = parameters[own_name].grad.numpy()
        if kind == 'grad_norm':
            assert np.linalg.norm(grad) == pytest.approx(stored[key], rel=tolerance), name
            checked.add(own_name)
        else:
            close(weights.sample(f'grad:{name}', grad), stored[key], tolerance)
    assert checked == set(parameters)


def close(value, reference, tolerance):
    assert abs(value - reference).max() <= tolerance * abs(reference).max()


@pytest.mark.parametrize(
    'size',
    [(32, 32), (33, 47), (32, 200), (97, 32), (31, 31), (31, 4096), (4096, 31), (3, 3), (3, 50)],
)
def test_any_size(size):
    model = ATMNet(TINY)
    levels = model(torch.randn(1, 3, *size))
    height, width = ((s - 3) // 4 + 1 for s in size)
    for level, channels in zip(levels, TINY['widths'], strict=True):
        assert level.shape == (1, channels, height, width)
        assert level.is_contiguous()
        height, width = (height + 1) // 2, (width + 1) // 2


@pytest.mark.parametrize(
    ('size', 'said'),
    [
        ((3, 2, 32), 'at least 3 pixels high and wide'),
        ((3, 32, 2), 'at least 3 pixels high and wide'),
        ((3, 0, 32), 'at least 3 pixels high and wide'),
        ((1, 64, 64), r'\[1, 1, 64, 64\]'),
    ],
)
def test_bad_images_are_rejected(size, said):
    with pytest.raises(ValueError, match=said):
        ATMNet(TINY)(torch.randn(1, *size))


def test_batch_of_64_equals_single_images():
    torch.manual_seed(0)
    model = ATMNet(TINY).double()
    images = torch.randn(64, 3, 32, 48, dtype=torch.float64)
    singles = zip(*(model(image[None]) for image in images), strict=True)
    for batch, single in zip(model(images), singles, strict=True):
        torch.testing.assert_close(batch, torch.cat(single))


def test_out_indices_build_only_what_they_need():
    torch.manual_seed(0)
    full = ATMNet(TINY)
    model = ATMNet(TINY, out_indices=(0, 2))
    norms = {n.split('.')[0] for n, _ in model.named_parameters() if n.startswith('norm')}
    assert norms == {'norm0', 'norm2'}
    assert len(model.stages) == 3
    model.load_state_dict(full.state_dict())
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(image), full(image)[::2])


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2)])
def test_every_parameter_has_a_gradient(out_indices):
    model = ATMNet(TINY, out_indices=out_indices)
    sum(level.square().sum() for level in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_checkpointing_changes_nothing():
    torch.manual_seed(0)
    stored, recomputed = ATMNet(TINY), ATMNet(TINY, with_cp=True)
    recomputed.load_state_dict(stored.state_dict())
    image = torch.randn(2, 3, 64, 64)
    grads = []
    for model in (stored, recomputed):
        sum(level.square().sum() for level in model(image)).backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize('frozen', range(-1, 5))
def test_frozen_stages(frozen):
    model = ATMNet(TINY, frozen_stages=frozen, drop_path_rate=0.2).train()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any(n.startswith('stem') for n in trained) == (frozen < 0)
    for i, stage in enumerate(model.stages):
        for name in (f'stages.{i}.', f'norm{i}.'):
            assert any(n.startswith(name) for n in trained) == (i >= frozen)
        assert stage.training == (i >= frozen)


def test_drop_path_grows_linearly():
    model = ATMNet('xt', drop_path_rate=0.9)
    rates = [getattr(b.drop_path, 'drop_prob', 0.0) for s in model.stages for b in s.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(10)])


def test_offsets_are_generated_as_published():
    model = ATMNet('b')
    generating = [[j for j, b in enumerate(s.blocks) if b.offset is not None] for s in model.stages]
    assert generating == [[0], [0, 6], [0, 6, 12, 18, 24], [0]]


def test_initialization():
    torch.manual_seed(0)
    model = ATMNet('t')
    assert model.stages[2].blocks[0].mixer.width.weight.std().item() == pytest.approx(0.02, rel=0.1)
    stem = (2 / (49 * 64)) ** 0.5
    assert model.stem.weight.std().item() == pytest.approx(stem, rel=0.05)
    assert model.stages[0].peg.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert all(p.eq(0).all() for n, p in model.named_parameters() if n.endswith('bias'))


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (dict(arch='tiny'), "'tiny'"),
        (dict(arch=dict(depths=(2, 2, 2, 2))), 'widths'),
        (dict(arch=TINY | dict(depths=(2, 2, 1, 2))), '(2, 2, 1, 2)'),
        (dict(arch=TINY | dict(widths=(8, 16, 24))), '(8, 16, 24)'),
        (dict(arch=TINY | dict(widths=(8, 18, 24, 32))), '18'),
        (dict(arch=TINY | dict(shares=(2, 4, 5, 8))), 'share 5'),
        (dict(arch=TINY | dict(mlp_ratios=(2, 2, 2, 'x'))), "'x'"),
        (dict(arch=TINY | dict(interval=0)), '0'),
        (dict(out_indices=(0, 4)), '(0, 4)'),
        (dict(out_indices=()), '()'),
        (dict(out_indices=(2, 1)), '(2, 1)'),
        (dict(out_indices=3), '3'),
        (dict(frozen_stages=5), '5'),
        (dict(drop_path_rate=1.0), '1.0'),
        (dict(in_channels=0), '0'),
        (dict(in_channels=1.5), '1.5'),
    ],
)
def test_bad_arguments_are_named(arguments, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011  the message is checked below
        ATMNet(**(dict(arch=TINY) | arguments))
    assert said in str(error.value)
