"""The timm model: published values, timm's own checks, and exchange of weights with mm."""

import argparse
import math
import pickle

import numpy as np
import pytest
import timm
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint, save_checkpoint
from safetensors.torch import save_file
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay
from torch import nn

from hostile import Bomb
from marks import compiles
from mmatm.checkpoints import CheckpointError, read_checkpoint
from mmatm.models import ARCHS, ATMNet, ATMNetClassifier
from reference import DATA, published_state_dict, weights

pytestmark = pytest.mark.usefixtures('reader')
PARAMETERS = {'xt': 15349128, 't': 27152232, 's': 38631448, 'b': 52154792, 'l': 76238032}
NAMES = [f'atmnet_{arch}' for arch in ARCHS]
TINY = dict(depths=(2, 2, 3, 2), widths=(8, 16, 24, 32), mlp_ratios=(2, 2, 2, 2),
            shares=(2, 4, 4, 8), interval=2)  # fmt: skip
IMAGE = torch.linspace(-1, 1, 3 * 48 * 64).view(1, 3, 48, 64)


def tiny(**kwargs):
    torch.manual_seed(0)
    return ATMNetClassifier(TINY, **kwargs).eval()


def mm_classifier(**kwargs):
    """The classifier of mmpretrain on ATMNet-xT."""
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    torch.manual_seed(1)
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type='ATMNet', arch='xt', out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=512),
    )
    return MODELS.build(cfg | kwargs).eval()


class Segmentor(nn.Module):
    """The parts of a detector or segmentor that matter for saving and loading."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = ATMNet('xt', **kwargs)
        self.decode_head = nn.Linear(2, 2)


def test_registered():
    assert timm.list_models('atmnet*') == timm.list_models(module='atmnet_timm') == sorted(NAMES)
    assert timm.get_pretrained_cfg('atmnet_l.in1k_384').input_size == (3, 384, 384)


@pytest.mark.parametrize('arch', ['xt', 't'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize('face', ['timm', 'mm'])
def test_published_logits(tmp_path, arch, dtype, tolerance, face):
    path = str(tmp_path / 'published.pth')
    torch.save({'model': published_state_dict(arch, head=True)}, path)
    if face == 'timm':
        model = timm.create_model(f'atmnet_{arch}', checkpoint_path=path)
    else:
        model = mm_classifier(backbone=dict(type='ATMNet', arch=arch, out_indices=(3,)))
        load_checkpoint(model, path)
    image = torch.from_numpy(weights.image(1, 224, 224)).to(dtype)
    with torch.no_grad():
        logits = model.to(dtype).eval()(image).numpy()
    stored = np.load(DATA / 'logits_224.npz')[arch]
    assert logits.shape == stored.shape == (1, 1000)
    assert abs(logits - stored).max() <= tolerance * abs(stored).max()


# Checks that timm's tests apply to all models.


@pytest.mark.parametrize('arch', ARCHS)
def test_size_and_default_cfg(arch):
    with torch.device('meta'):  # shapes are enough
        model = timm.create_model(f'atmnet_{arch}').eval()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]
    cfg, state = model.default_cfg, model.state_dict()
    assert cfg['architecture'] == f'atmnet_{arch}'
    assert f'{cfg["classifier"]}.weight' in state
    assert f'{cfg["first_conv"]}.weight' in state
    with torch.no_grad():
        features = model.forward_features(torch.randn(1, 3, 64, 64, device='meta'))
        assert model.output_fmt == 'NHWC'
        assert features.shape == (1, 2, 2, model.num_features)
        assert model.forward_head(features).shape == (1, cfg['num_classes'])
        assert model.forward_head(features, pre_logits=True).shape == (1, model.num_features)


def test_backward():
    torch.manual_seed(0)
    model = timm.create_model('atmnet_xt', num_classes=42, drop_rate=0.1, drop_path_rate=0.1)
    out = model.train()(torch.randn(2, 3, 64, 64))
    assert out.shape == (2, 42)
    out.mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_reset_classifier():
    model = tiny(num_classes=10)
    assert model.get_classifier().out_features == model.num_classes == 10
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    torch.testing.assert_close(model(IMAGE), model.forward_features(IMAGE).mean((1, 2)))
    model.reset_classifier(0, '')
    torch.testing.assert_close(model(IMAGE), model.forward_features(IMAGE))
    model.double().reset_classifier(5, 'avg')
    assert model(IMAGE.double()).shape == (1, 5)
    model.reset_classifier(5, '')
    assert model(IMAGE.double()).shape == (1, 2, 2, 5)


@pytest.mark.parametrize('number', [0, 1, 4])
def test_arguments_arrive(number):
    model = timm.create_model('atmnet_xt', num_classes=number, in_chans=number or 3, drop_rate=0.5)
    assert model(torch.randn(1, number or 3, 32, 32)).shape == (1, number or 512)
    assert model.head_drop.p == 0.5
    rates = timm.create_model('atmnet_xt', drop_path_rate=0.9).stages[3].blocks[1].drop_path
    assert rates.drop_prob == pytest.approx(0.9)


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [(dict(global_pool='max'), "'max'"), (dict(num_classes=-1), '-1'), (dict(arch='m'), "'m'")],
)
def test_bad_arguments_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        ATMNetClassifier(**(dict(arch=TINY) | arguments))


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2), (-1,), (3, 0)])
def test_features_only(out_indices):
    model = timm.create_model('atmnet_xt', features_only=True, out_indices=out_indices).eval()
    stages = [range(4)[i] for i in out_indices]
    assert model.feature_info.channels() == [(64, 128, 320, 512)[i] for i in stages]
    assert model.feature_info.reduction() == [4 * 2**i for i in stages]
    assert model.feature_info.module_name() == [f'stages.{i}' for i in stages]
    with torch.no_grad():
        levels = model(torch.randn(2, 3, 96, 64))
    expected = sorted(stages)  # as all of timm's models return them
    assert [tuple(level.shape) for level in levels] == [
        (2, (64, 128, 320, 512)[i], 24 // 2**i, 16 // 2**i) for i in expected
    ]
    names = {n.removeprefix('model.').split('.')[0] for n, _ in model.named_parameters()}
    assert names == {'stem', 'stages'}
    assert len(model.model.stages) == max(stages) + 1


def test_forward_intermediates():
    model = tiny(num_classes=10)
    final, levels = model.forward_intermediates(IMAGE)
    torch.testing.assert_close(final, model.forward_features(IMAGE))
    raw = list(model.forward_stages(IMAGE))
    for level, stage in zip(levels, raw, strict=True):
        torch.testing.assert_close(level, stage.permute(0, 3, 1, 2))
    (last,) = model.forward_intermediates(
        IMAGE, 1, norm=True, output_fmt='NHWC', intermediates_only=True
    )
    torch.testing.assert_close(last, final)
    early, (level,) = model.forward_intermediates(IMAGE, (1,), stop_early=True)
    torch.testing.assert_close(early.permute(0, 3, 1, 2), level)
    with pytest.raises(ValueError, match='NLC'):
        model.forward_intermediates(IMAGE, output_fmt='NLC')


def test_prune():
    model = tiny(num_classes=10)
    level = model.forward_intermediates(IMAGE, (1,), intermediates_only=True)[0]
    assert model.prune_intermediate_layers((1,)) == [1]
    torch.testing.assert_close(model(IMAGE).permute(0, 3, 1, 2), level)
    assert model.num_features == 16
    model.reset_classifier(3, 'avg')
    assert model(IMAGE).shape == (1, 3)


def test_grad_checkpointing():
    stored, recomputed = tiny(num_classes=3), tiny(num_classes=3)
    recomputed.set_grad_checkpointing()
    assert all(stage.with_cp for stage in recomputed.stages)
    grads = []
    for model in (stored, recomputed):
        model(IMAGE).square().sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    torch.testing.assert_close(*grads)
    recomputed.set_grad_checkpointing(False)
    assert not any(stage.with_cp for stage in recomputed.stages)


@compiles
def test_export():
    model = tiny(num_classes=3)
    exported = torch.export.export(model, (IMAGE,)).module()
    other = IMAGE.flip(-1)
    torch.testing.assert_close(exported(other), model(other))


def test_weight_decay():
    model = tiny()
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    decayed = {id(p) for g in groups if g['weight_decay'] for p in g['params']}
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim == 1 or '.peg.' in name
        assert (id(parameter) in decayed) != exempt, name


def test_groups():
    model = tiny()
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    names = {name for name, _ in model.named_parameters()}
    assert layers == {name: model.get_layer_depth(name)[0] for name in names}
    assert max(layers.values()) == sum(TINY['depths']) + 1
    stages = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    for name, group in stages.items():
        part, number = name.split('.')[:2]
        assert group == {'stem': 0, 'stages': 1, 'norm': 5, 'head': 5}[part] + (
            int(number) if part == 'stages' else 0
        )


# Exchange of weights.


@pytest.fixture(scope='module')
def source():
    """Xt with weights that no initialization gives."""
    model = timm.create_model('atmnet_xt')
    model.load_state_dict(published_state_dict('xt', head=True))
    return model.eval()


def published_file(model, path):
    weights = published_state_dict('xt', head=True)
    content = {'model': weights, 'model_ema': None, 'args': argparse.Namespace(lr=1)}
    if 'ema' in path.name:
        content |= {'model': {n: v + 1 for n, v in weights.items()}, 'model_ema': weights}
    torch.save(content, path)


def timm_train_file(model, path):
    state = {f'module.{k}': v for k, v in model.state_dict().items()}
    torch.save(
        dict(epoch=1, arch='atmnet_xt', state_dict=state, optimizer={}, version=2, metric=0.5,
             args=argparse.Namespace(model='atmnet_xt')), path,
    )  # fmt: skip


def mm_file(model, path):
    """A file of mmpretrain's classifier, which loads the weights from a file of timm's."""
    classifier = mm_classifier()
    torch.save(model.state_dict(), path)
    load_checkpoint(classifier, str(path))
    history = HistoryBuffer([1.0], [1])  # as mmengine's runner stores it
    log = {'log_scalars': {'train/loss': history}}
    state = classifier.state_dict()
    save_checkpoint({'meta': {}, 'state_dict': state, 'message_hub': log}, str(path))


FILES = {
    'published.pth': published_file,
    'published_ema.pth': published_file,
    'timm.pth': lambda model, path: torch.save(model.state_dict(), path),
    'model.pth': lambda model, path: torch.save({'model': model.state_dict()}, path),
    'train.pth.tar': timm_train_file,
    'timm.safetensors': lambda model, path: save_file(model.state_dict(), path),
    'mm.pth': mm_file,
}


@pytest.mark.parametrize('kind', FILES)
def test_exchange(tmp_path, source, kind):
    path = tmp_path / kind
    FILES[kind](source, path)
    name = f'ema:{path}' if 'ema' in kind else str(path)
    expected = source(IMAGE)

    # timm's reader rejects what mmengine stores next to the weights, and with an old torch also the
    # arguments of a training script.
    old = not hasattr(torch.serialization, 'safe_globals')
    rejected = kind == 'mm.pth' or (old and kind.startswith(('published', 'train')))
    if rejected:
        model = timm.create_model('atmnet_xt').eval()
        model.load_state_dict(read_checkpoint(path, ema='ema' in kind)['state_dict'])
    else:  # prefers the EMA weights
        model = timm.create_model('atmnet_xt', checkpoint_path=str(path)).eval()
    torch.testing.assert_close(model(IMAGE), expected, rtol=0, atol=0)

    if not rejected:
        overlay = dict(pretrained_cfg_overlay=dict(file=str(path)), pretrained=True)
        features = timm.create_model('atmnet_xt', features_only=True, **overlay).eval()
        levels = source.forward_intermediates(IMAGE, intermediates_only=True)
        torch.testing.assert_close(features(IMAGE), levels, rtol=0, atol=0)
        gray = timm.create_model('atmnet_xt', num_classes=3, in_chans=1, **overlay)
        torch.testing.assert_close(gray.norm.weight, source.norm.weight)
        torch.testing.assert_close(gray.stem.weight, source.stem.weight.sum(1, keepdim=True))

    # Into detectors and segmentors, through init_cfg and as a whole.
    segmentor = Segmentor(init_cfg=dict(type='Pretrained', checkpoint=name))
    segmentor.backbone.init_weights()
    other = Segmentor()
    load_checkpoint(other, name)
    for loaded in (segmentor, other):
        loaded.eval()
        last = loaded.backbone(IMAGE)[3]
        torch.testing.assert_close(source.head(last.mean((2, 3))), expected)

    classifier = mm_classifier()
    load_checkpoint(classifier, name)
    torch.testing.assert_close(classifier(IMAGE), expected)
    classifier = mm_classifier(
        backbone=dict(
            type='ATMNet', arch='xt', out_indices=(3,),
            init_cfg=dict(type='Pretrained', checkpoint=name, prefix='backbone.'),
        )
    )  # fmt: skip
    classifier.init_weights()
    torch.testing.assert_close(source.head(classifier.extract_feat(IMAGE)[0]), expected)


@pytest.mark.parametrize('names', ['own', 'published'])
def test_dense_model_into_the_classifiers(tmp_path, names):
    segmentor = Segmentor().eval()
    segmentor.backbone.load_state_dict(published_state_dict('xt'))
    state = segmentor.state_dict()
    if names == 'published':
        head = {k: v for k, v in state.items() if not k.startswith('backbone.')}
        state = head | {f'backbone.{k}': v for k, v in published_state_dict('xt').items()}
    path = str(tmp_path / 'segmentor.pth')
    save_checkpoint({'meta': {}, 'state_dict': state}, path)
    expected = segmentor.backbone(IMAGE)[3].mean((2, 3))

    model = timm.create_model('atmnet_xt', num_classes=0, checkpoint_path=path).eval()
    torch.testing.assert_close(model(IMAGE), expected)
    with pytest.raises(RuntimeError, match=r'head\.weight'):  # there is none in the file
        timm.create_model('atmnet_xt', checkpoint_path=path)
    classifier = mm_classifier()
    load_checkpoint(classifier, path)
    torch.testing.assert_close(classifier.extract_feat(IMAGE)[0], expected)


def test_what_does_not_fit_is_named(tmp_path, source):
    path = str(tmp_path / 'timm.pth')
    state = source.state_dict()
    torch.save(state | {'norm.weight': torch.ones(4)}, path)
    with pytest.raises(CheckpointError, match=r'norm\.weight is \[4\], expected \[512\]'):
        timm.create_model('atmnet_xt', checkpoint_path=path)
    torch.save({k: v for k, v in state.items() if k != 'stem.bias'}, path)
    with pytest.raises(CheckpointError, match=r'lacks 1 .*stem\.bias'):
        timm.create_model('atmnet_xt', checkpoint_path=path)


@pytest.mark.parametrize('legacy', [False, True])
def test_timm_runs_no_code_in_a_file(tmp_path, legacy):
    content = {'model': {}, 'payload': Bomb(tmp_path / 'executed')}
    path = tmp_path / 'bomb.pth'
    path.write_bytes(pickle.dumps(content)) if legacy else torch.save(content, path)
    with pytest.raises((RuntimeError, pickle.UnpicklingError)):
        timm.create_model('atmnet_xt', checkpoint_path=str(path))
    assert not (tmp_path / 'executed').exists()


def test_fx_traces_forward_and_backward():
    """As timm's own tests trace every model."""
    from timm.layers import get_notrace_functions, get_notrace_modules
    from torchvision.models.feature_extraction import (
        create_feature_extractor,
        get_graph_node_names,
    )

    model = tiny().train()
    leaves = dict(leaf_modules=list(get_notrace_modules()))
    tracer = leaves | dict(autowrap_functions=list(get_notrace_functions()))
    nodes, _ = get_graph_node_names(model, tracer_kwargs=tracer)
    traced = create_feature_extractor(model, [nodes[-1]], tracer_kwargs=tracer)
    for size in ((48, 64), (33, 47)):
        image = torch.linspace(-1, 1, 3 * math.prod(size)).view(1, 3, *size).requires_grad_()
        (found,) = traced(image).values()
        grads = [torch.autograd.grad(out.square().sum(), image)[0] for out in (found, model(image))]
        torch.testing.assert_close(found, model(image))
        torch.testing.assert_close(*grads)
    extractor = timm.create_model('atmnet_xt', features_only=True, feature_cls='fx',
                                  out_indices=[0])  # fmt: skip
    assert extractor(IMAGE)[0].shape[-1] == 64
