"""Every published layout loads; everything else is refused by name."""

import argparse
import pickle
import struct

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint
from safetensors.torch import save_file
from torch import nn

from hostile import Bomb
from mmatm.checkpoints import CheckpointError, published_name, read_checkpoint, translate_name
from mmatm.models import ARCHS, ATMNet
from reference import published_state_dict

pytestmark = pytest.mark.usefixtures('reader')
BOTH = ('weight', 'bias')
IMAGE = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)


@pytest.fixture(scope='module')
def backbone():
    """Xt with published weights, the model that every file below must reproduce."""
    model = ATMNet('xt')
    model.load_state_dict(published_state_dict('xt'))
    return model


@pytest.fixture(scope='module')
def classifier():
    return published_state_dict('xt', head=True)


def save(tmp_path, content):
    path = tmp_path / 'checkpoint.pth'
    torch.save(content, path)
    return str(path)


def load(path, **init_cfg):
    model = ATMNet('xt', init_cfg=dict(type='Pretrained', checkpoint=path, **init_cfg))
    model.init_weights()
    return model


def same_trunk(one, other):
    """Whether all agrees but the output norms, of which an ImageNet file has norm3 alone."""
    state = other.state_dict()
    return all(
        torch.equal(value, state[name])
        for name, value in one.state_dict().items()
        if not name.startswith('norm')
    )


def has_norm_of(model, classifier):
    """Whether norm3 is the classifier's norm, and the others are as initialised."""
    state = model.state_dict()
    return torch.equal(state['norm3.weight'], classifier['norm.weight']) and all(
        state[f'norm{i}.weight'].eq(1).all() and state[f'norm{i}.bias'].eq(0).all()
        for i in range(3)
    )


class Detector(nn.Module):
    """As much of a detector as loading sees: a backbone and something else."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def test_names_translate_one_to_one():
    for arch in ('xt', 's'):
        for head in (False, True):
            names = published_state_dict(arch, head)
            own = {translate_name(name) for name in names}
            assert len(own) == len(names)
            expected = {n for n, _ in ATMNet(arch).named_parameters()}
            if head:
                assert own - expected == {'head.fc.weight', 'head.fc.bias'}
                assert expected - own == {f'norm{i}.{n}' for i in range(3) for n in BOTH}
            else:
                assert own == expected
            depths = ARCHS[arch]['depths']
            assert {published_name(translate_name(n), depths, head) for n in names} == set(names)


def test_imagenet_file(tmp_path, backbone, classifier):
    ema = {name: value + 1 for name, value in classifier.items()}
    path = save(
        tmp_path,
        {
            'model': classifier,
            'model_ema': ema,
            'epoch': 300,
            'args': argparse.Namespace(lr=5e-4),
            'optimizer': {'state': {}, 'param_groups': []},
        },
    )
    trained = load(path)
    assert same_trunk(trained, backbone)
    assert has_norm_of(trained, classifier)
    averaged = load(path, ema=True)
    torch.testing.assert_close(averaged.stem.weight, backbone.stem.weight + 1)
    loaded = ATMNet('xt')
    load_checkpoint(loaded, path)
    assert same_trunk(loaded, backbone)
    detector = Detector(ATMNet('xt'))
    load_checkpoint(detector, path)
    assert same_trunk(detector.backbone, backbone)
    assert has_norm_of(detector.backbone, classifier)
    load_checkpoint(detector, f'ema:{path}')
    assert same_trunk(detector.backbone, averaged)


def test_data_parallel_imagenet_file(tmp_path, backbone, classifier):
    path = save(tmp_path, {'model': {f'module.{k}': v for k, v in classifier.items()}})
    assert same_trunk(load(path), backbone)


def test_missing_ema_is_named(tmp_path, classifier):
    path = save(tmp_path, {'model': classifier, 'model_ema': None})
    with pytest.raises(CheckpointError, match='model_ema'):
        load(path, ema=True)


def test_segmentor_file_with_published_names(tmp_path, backbone):
    state = {f'backbone.{k}': v for k, v in published_state_dict('xt').items()}
    state['decode_head.conv_seg.weight'] = torch.zeros(150, 512, 1, 1)
    path = save(tmp_path, {'meta': {'CLASSES': ('wall',), 'iter': 160000}, 'state_dict': state})
    for model in (load(path), load(path, prefix='backbone.')):
        torch.testing.assert_close(model(IMAGE), backbone(IMAGE), rtol=0, atol=0)
    detector = Detector(ATMNet('xt'))
    load_checkpoint(detector, path)
    torch.testing.assert_close(detector.backbone(IMAGE), backbone(IMAGE), rtol=0, atol=0)


def test_own_file_of_mmengine(tmp_path, backbone):
    history = HistoryBuffer([1.0, 0.5], [1, 1])
    content = {
        'meta': {'epoch': 3},
        'state_dict': Detector(backbone).state_dict(),
        'message_hub': {'log_scalars': {'train/loss': history}},
        # EMAHook puts the averages into state_dict, and what was averaged here.
        'ema_state_dict': {
            'steps': torch.tensor(3),
            **{f'module.{k}': v + 1 for k, v in Detector(backbone).state_dict().items()},
        },
    }
    path = save(tmp_path, content)
    for model in (load(path), load(path, ema=True)):
        torch.testing.assert_close(model(IMAGE), backbone(IMAGE), rtol=0, atol=0)
    assert read_checkpoint(path)['message_hub']['log_scalars']['train/loss'].current() == 0.5


def test_bare_state_dict(tmp_path, backbone):
    for state in (published_state_dict('xt'), backbone.state_dict()):
        model = load(save(tmp_path, state))
        torch.testing.assert_close(model(IMAGE), backbone(IMAGE), rtol=0, atol=0)


def test_fewer_outputs_than_the_file(tmp_path, backbone):
    path = save(tmp_path, published_state_dict('xt'))
    model = ATMNet('xt', out_indices=(1, 3))
    load_checkpoint(model, path)
    torch.testing.assert_close(model(IMAGE), backbone(IMAGE)[1::2], rtol=0, atol=0)


def test_head_is_dropped_with_one_line(tmp_path, classifier, monkeypatch):
    lines = []
    monkeypatch.setattr('mmatm.checkpoints.fitting.log', lines.append)
    load(save(tmp_path, {'model': classifier}))
    assert len([line for line in lines if 'dropped' in line]) == 1
    assert any('head.fc.weight' in line for line in lines)
    assert any('norm0.weight' in line for line in lines)  # left as initialised


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: {'model': s}])
def test_missing_tensor_is_named(tmp_path, wrap):
    state = published_state_dict('xt')
    del state['blocks.2.1.atm.atm_h.weight']
    with pytest.raises(CheckpointError, match=r'stages\.2\.blocks\.1\.mixer\.height\.weight'):
        load(save(tmp_path, wrap(state)))


def test_missing_norm_is_named(tmp_path):
    state = published_state_dict('xt')
    del state['norm_2.bias']
    with pytest.raises(CheckpointError, match=r'norm2\.bias'):
        load(save(tmp_path, state))


@pytest.mark.parametrize('name', ['norm.weight', 'blocks.0.1.norm1.bias'])
def test_missing_norm_of_a_classifier_is_named(tmp_path, classifier, name):
    state = {k: v for k, v in classifier.items() if k != name}
    with pytest.raises(CheckpointError, match=translate_name(name).replace('.', r'\.')):
        load(save(tmp_path, {'model': state}))


def test_missing_norms_are_only_left_to_a_classifier(tmp_path):
    state = {k: v for k, v in published_state_dict('xt').items() if 'norm_0' not in k}
    with pytest.raises(CheckpointError, match=r'lacks 2 .*norm0\.bias, norm0\.weight'):
        load(save(tmp_path, state))


def test_files_of_other_models_stay_as_they_are(tmp_path):
    state = {'patch_embed.proj.weight': torch.zeros(2), 'norm.weight': torch.ones(1)}
    for content in (state, {'model': state, 'epoch': 1}, {'state_dict': state}, {1: 2}):
        torch.testing.assert_close(read_checkpoint(save(tmp_path, content)), content)


def test_wrong_shape_is_named(tmp_path):
    state = published_state_dict('xt')
    state['patch_embed.proj.weight'] = torch.zeros(96, 3, 7, 7)
    with pytest.raises(CheckpointError, match=r'stem\.weight is \[96, 3, 7, 7\], expected \[64'):
        load(save(tmp_path, state))


@pytest.mark.parametrize(
    ('value', 'said'),
    [
        (torch.zeros(64, device='meta'), 'has a shape but no data'),
        (torch.zeros(64).to_sparse(), 'is sparse_coo'),
        (torch.zeros(64, dtype=torch.complex64), 'is complex'),
        (torch.quantize_per_tensor(torch.zeros(64), 0.1, 0, torch.qint8), 'is quantized'),
    ],
)
def test_tensor_without_plain_numbers_is_named(value, said):
    model = ATMNet('xt')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = published_state_dict('xt') | {'patch_embed.proj.bias': value}
    with pytest.raises(CheckpointError, match=rf'stem\.bias {said}'):
        model.load_state_dict(state)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_sparse_convolution_is_named():
    """One that would otherwise be flattened to a linear layer's weight."""
    state = published_state_dict('xt')
    name = 'blocks.0.0.mlp.fc1.weight'
    state[name] = state[name][:, :, None, None].to_sparse()
    with pytest.raises(CheckpointError, match=r'stages\.0\.blocks\.0\.mlp\.fc1\.weight is sparse'):
        ATMNet('xt').load_state_dict(state)


def test_tensor_under_two_names_is_refused(tmp_path):
    state = published_state_dict('xt')
    state['stem.bias'] = state['patch_embed.proj.bias'] + 1
    said = r'stem\.bias twice, in two layouts: as patch_embed\.proj\.bias and as stem\.bias'
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(save(tmp_path, {'state_dict': state}))
    with pytest.raises(CheckpointError, match=said):
        ATMNet('xt').load_state_dict(state)


def test_other_arch_is_an_error(tmp_path):
    path = save(tmp_path, published_state_dict('xt'))
    with pytest.raises(CheckpointError, match='lacks'):
        load_checkpoint(ATMNet('t'), path)


def test_foreign_file_is_an_error(tmp_path):
    path = save(tmp_path, {'state_dict': {'backbone.conv1.weight': torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=r'conv1\.weight'):
        load_checkpoint(Detector(ATMNet('xt')), path)


def test_failed_load_leaves_the_weights(tmp_path):
    model = ATMNet('xt')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = published_state_dict('xt')
    del state['norm_3.weight']
    with pytest.raises(CheckpointError):
        load_checkpoint(model, save(tmp_path, state))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, classifier, legacy):
    content = {'model': classifier, 'payload': Bomb(tmp_path / 'executed')}
    path = tmp_path / 'bomb.pth'
    if legacy:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    for attempt in (
        lambda: read_checkpoint(path),
        lambda: load(str(path)),
        lambda: load(str(path), ema=True),
        lambda: load_checkpoint(ATMNet('xt'), str(path)),
    ):
        with pytest.raises(CheckpointError, match=r'bomb\.pth'):
            attempt()
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('keep', [0, 1, 1000, -1000])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_truncated_file_is_an_error(tmp_path, suffix, keep):
    path = tmp_path / 'whole'
    state = {'x': torch.zeros(5000)}
    torch.save({'model': state}, path) if suffix == 'pth' else save_file(state, path)
    cut = tmp_path / f'cut.{suffix}'
    cut.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=rf'cut\.{suffix}'):
        read_checkpoint(cut)


@pytest.mark.parametrize(
    'content',
    [
        # A zip archive that claims to begin on another disk.
        b'PK\x06\x07' + struct.pack('<LQL', 1, 0, 2) + b'PK\x05\x06' + bytes(18),
        # A pickle of torch's old format that ends within the length of a string.
        pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)
        + pickle.dumps(torch.serialization.PROTOCOL_VERSION, 2)
        + pickle.dumps({'little_endian': True}, 2)
        + b'\x80\x02X\x04',
    ],
)
def test_odd_bytes_are_an_error(tmp_path, content):
    (tmp_path / 'odd.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=r'odd\.pth .*damaged'):
        read_checkpoint(tmp_path / 'odd.pth')


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere'):
        load(str(tmp_path / 'nowhere.pth'))


def test_not_a_dict(tmp_path):
    with pytest.raises(CheckpointError, match='Tensor'):
        read_checkpoint(save(tmp_path, torch.zeros(3)))


def test_random_start_is_said(monkeypatch):
    lines = []
    monkeypatch.setattr('mmatm.models.atmnet.log', lines.append)
    ATMNet('xt').init_weights()
    assert lines == ['ATMNet: no init_cfg, so it starts from random weights']
