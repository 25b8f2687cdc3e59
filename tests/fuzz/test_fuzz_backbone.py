"""Random settings of the backbone: a model with maps of the right shape, or a clear error."""

import torch
from fuzz.cases import cases, rejected
from hypothesis import example, given
from hypothesis import strategies as st

from mmatm.models import ATMNet

ODD = st.sampled_from(
    [None, True, False, 0, -1, 1.5, float('nan'), float('inf'), 2**70, '', 'xt', [], [4], (), {}]
)


def four(elements):
    return st.lists(elements, min_size=4, max_size=4).flatmap(
        lambda values: st.sampled_from([values, tuple(values)])
    )


FITTING = st.fixed_dictionaries(
    dict(
        depths=four(st.integers(2, 3)),
        widths=four(st.sampled_from([8, 16, 24])),
        mlp_ratios=four(st.sampled_from([1, 2, 0.5, 1.5])),
        shares=four(st.sampled_from([1, 2, 4, 8])),
        interval=st.integers(1, 4),
    )
)


@st.composite
def archs(draw):
    """A valid arch in which up to two values are then replaced or removed."""
    arch = draw(FITTING)
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from([*arch, 'heads']))
        how = draw(st.sampled_from(['remove', 'replace', 'element', 'length']))
        value = arch.get(key)
        if how == 'remove':
            arch.pop(key, None)
        elif how == 'replace' or not isinstance(value, (list, tuple)) or not value:
            arch[key] = draw(ODD)
        elif how == 'element':
            values = list(value)
            values[draw(st.integers(0, len(values) - 1))] = draw(
                ODD | st.integers(-3, 40) | st.floats(-1, 3)
            )
            arch[key] = type(value)(values)
        else:
            arch[key] = value[:-1] if draw(st.booleans()) else type(value)([*value, 4])
    return arch


SETTINGS = st.fixed_dictionaries(
    dict(arch=archs() | ODD),
    optional=dict(
        in_channels=st.integers(1, 4) | ODD,
        out_indices=st.lists(st.integers(-1, 4), max_size=5) | st.lists(ODD, max_size=3) | ODD,
        drop_path_rate=st.floats(-0.1, 1.1) | ODD,
        frozen_stages=st.integers(-2, 5) | ODD,
        with_cp=st.booleans(),
    ),
)


@given(SETTINGS, st.integers(32, 70), st.integers(32, 70))
@example(dict(arch='t', in_channels=0), 32, 32)
@cases(40)
def test_settings_are_taken_or_rejected(settings, height, width):
    if settings['arch'] == 'xt':
        return  # large, and tested elsewhere
    try:
        model = ATMNet(**settings)
    except (ValueError, TypeError) as error:
        rejected(error)
        return
    arch = settings['arch']
    channels = settings.get('in_channels', 3)
    maps = model(torch.randn(1, channels, height, width))
    indices = settings.get('out_indices', (0, 1, 2, 3))
    assert [m.shape[1] for m in maps] == [arch['widths'][i] for i in indices]
    for index, level in zip(indices, maps, strict=True):
        for size, found in zip((height, width), level.shape[2:], strict=True):
            assert abs(found - size / 2 ** (index + 2)) <= 1
        assert level.isfinite().all()
    frozen = settings.get('frozen_stages', -1)
    assert model.stem.weight.requires_grad == (frozen < 0)
    for number, stage in enumerate(model.stages):
        assert all(p.requires_grad == (number >= frozen) for p in stage.parameters())
    if any(m.requires_grad for m in maps):
        sum(m.square().sum() for m in maps).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
