"""Mixed precision on a CPU, the loss guard, the optimizer and layer-wise learning rates."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmatm.engine import CpuAmpOptimWrapper, FiniteLossHook
from mmatm.engine.amp import use_mixed_precision
from mmatm.models import ATMNet

NAN, INF = float('nan'), float('inf')


class Detector(nn.Module):
    """A backbone and a head, as an optimizer sees a detector."""

    def __init__(self):
        super().__init__()
        self.backbone = ATMNet('xt')
        self.head = nn.Linear(8, 8)


def optimizer_of(model, **paramwise):
    settings = dict(
        constructor='LayerDecayConstructor',
        optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, Config(dict(wrapper=settings)).wrapper).optimizer


def test_layer_decay():
    model = Detector()
    optimizer = optimizer_of(
        model,
        layer_decay=0.5,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'.peg.': dict(decay_mult=0.0), 'head': dict(lr_mult=2.0)},
    )
    names = {id(p): n for n, p in model.named_parameters()}
    groups = {names[id(g['params'][0])]: g for g in optimizer.param_groups}
    assert len(groups) == len(names)
    # xt has 2 + 2 + 4 + 2 blocks: stem 0, blocks 1 to 10, heads 11.
    for name, layer in {
        'stem.weight': 0,
        'stages.0.peg.weight': 1,
        'stages.0.blocks.0.mixer.proj.weight': 1,
        'stages.0.blocks.1.mlp.fc1.bias': 2,
        'norm0.weight': 2,
        'stages.1.downsample.weight': 3,
        'stages.2.blocks.3.norm1.weight': 8,
        'stages.3.blocks.1.norm2.bias': 10,
        'norm3.bias': 10,
    }.items():
        assert groups[f'backbone.{name}']['lr'] == 0.5 ** (11 - layer), name
    assert groups['head.weight']['lr'] == 2.0
    for name, group in groups.items():
        exempt = name.startswith('backbone.') and (
            'norm' in name or '.peg.' in name or name.endswith('bias') or 'offset.0' in name
        )
        assert (group['weight_decay'] == 0) == exempt, name


@pytest.mark.parametrize('decay', [{}, *({'layer_decay': d} for d in (None, 0, 1.5, 'half'))])
def test_bad_layer_decay_is_rejected(decay):
    with pytest.raises(ValueError, match=r'layer_decay must be in \(0, 1\]'):
        optimizer_of(Detector(), **decay)


def test_factor_of_the_backbone():
    """It does not switch off other rules, as a custom key for the backbone would."""
    optimizer = optimizer_of(Detector(), layer_decay=1.0, backbone_lr_mult=0.1, norm_decay_mult=0.0)
    found = {(group['lr'], group['weight_decay']) for group in optimizer.param_groups}
    assert found == {(0.1, 0.05), (0.1, 0.0), (1.0, 0.05)}
    with pytest.raises(ValueError, match=r'backbone_lr_mult must be in \(0, 1\]'):
        optimizer_of(Detector(), layer_decay=1.0, backbone_lr_mult=2)


def test_layer_decay_needs_a_backbone_with_layers():
    with pytest.raises(ValueError, match='get_layer_depth'):
        optimizer_of(nn.Sequential(nn.Linear(2, 2)), layer_decay=0.9)
    with pytest.raises(ValueError, match='does not begin with'):
        ATMNet('xt').get_layer_depth('stem.weight', prefix='backbone.')


@pytest.mark.parametrize(
    ('losses', 'said'),
    [
        (dict(loss=1.0, acc=50.0), None),
        (dict(loss=NAN, loss_cls=1.0, loss_mask=NAN), 'loss_mask is nan;'),
        (dict(loss=INF, loss_cls=1.0, loss_mask=INF), 'loss_mask is inf;'),
        (dict(loss=INF, loss_cls=3e38), 'loss is inf;'),
    ],
)
def test_loss_that_is_not_finite_is_named(losses, said):
    outputs = {name: torch.tensor(value) for name, value in losses.items()}
    outcome = pytest.raises(FloatingPointError, match=f'iteration 5: {said}')
    with outcome if said else nullcontext():
        FiniteLossHook().after_train_iter(SimpleNamespace(iter=4), 4, outputs=outputs)


def test_cpu_amp_steps_in_float32():
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    before = model.weight.clone()
    wrapper = CpuAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        out = model(torch.ones(2, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    torch.testing.assert_close(model.weight, before - 0.1 * 2)


@pytest.mark.parametrize(
    ('capability', 'chosen', 'dtype', 'scale'),
    [
        (None, {'dtype': 'float16', 'loss_scale': 512.0}, None, None),
        ((7, 5), {}, 'float16', 'dynamic'),
        ((8, 0), {}, 'bfloat16', 1.0),
        ((9, 0), {'dtype': 'float16'}, 'float16', 'dynamic'),
        ((9, 0), {'loss_scale': 512.0}, 'bfloat16', 512.0),
    ],
)
def test_mixed_precision_that_the_device_has(capability, chosen, dtype, scale, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: capability)
    settings = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1), **chosen)
    use_mixed_precision(settings)
    assert settings.get('dtype') == dtype
    assert settings.get('loss_scale') == scale
    assert settings['type'] == ('GpuAmpOptimWrapper' if capability else 'CpuAmpOptimWrapper')
    if capability:  # mmengine builds it from these
        import mmengine.optim.optimizer.amp_optimizer_wrapper as amp

        monkeypatch.undo()
        monkeypatch.setattr(amp, 'is_cuda_available', lambda: True)
        wrapper = build_optim_wrapper(nn.Linear(2, 2), Config(dict(wrapper=settings)).wrapper)
        assert wrapper.cast_dtype == getattr(torch, dtype)


def test_boxes_stay_exact_under_cpu_amp():
    pytest.importorskip('mmdet')
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    torch.manual_seed(0)
    extractor = SingleRoIExtractor(
        roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
        out_channels=4,
        featmap_strides=[4],
    )
    model = nn.Linear(1, 1)
    wrapper = CpuAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    feature = torch.randn(1, 4, 64, 64).bfloat16().requires_grad_()
    boxes = torch.tensor([[0, 101.3, 90.7, 203.1, 187.9]])
    before = SingleRoIExtractor.forward
    with wrapper.optim_context(model):
        found = extractor((feature,), boxes)
    assert SingleRoIExtractor.forward is before
    exact = extractor((feature.detach().float(),), boxes)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact)
    found.sum().backward()
    assert feature.grad.dtype == torch.bfloat16
    assert feature.grad.abs().sum() > 0
