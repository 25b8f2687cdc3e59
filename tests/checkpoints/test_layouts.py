"""All published layouts load; everything else is rejected by name."""

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
from mmatm.checkpoints.loading import load_whole_model
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


def same_output(model, backbone):
    torch.testing.assert_close(model(IMAGE), backbone(IMAGE), rtol=0, atol=0)


def same_trunk(one, other):
    """Whether all weights agree but the output norms, of which an ImageNet file has only norm3."""
    state = other.state_dict()
    return all(
        torch.equal(value, state[name])
        for name, value in one.state_dict().items()
        if not name.startswith('norm')
    )


def has_norm_of(model, classifier):
    """Whether norm3 is the classifier's norm, and the others are as initialized."""
    state = model.state_dict()
    return torch.equal(state['norm3.weight'], classifier['norm.weight']) and all(
        state[f'norm{i}.weight'].eq(1).all() and state[f'norm{i}.bias'].eq(0).all()
        for i in range(3)
    )


class Detector(nn.Module):
    """The parts of a detector that matter for loading: a backbone and something else."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


@pytest.mark.parametrize('arch', ['xt', 's'])
def test_names_translate_one_to_one(arch):
    expected = {n for n, _ in ATMNet(arch).named_parameters()}
    for head in (False, True):
        names = published_state_dict(arch, head)
        own = {translate_name(name) for name in names}
        assert len(own) == len(names)
        if head:
            assert own - expected == {'head.fc.weight', 'head.fc.bias'}
            assert expected - own == {f'norm{i}.{n}' for i in range(3) for n in BOTH}
        else:
            assert own == expected
        depths = ARCHS[arch]['depths']
        assert {published_name(translate_name(n), depths, head) for n in names} == set(names)


def test_imagenet_file(tmp_path, backbone, classifier):
    content = {
        'model': classifier,
        'model_ema': {name: value + 1 for name, value in classifier.items()},
        'epoch': 300,
        'args': argparse.Namespace(lr=5e-4),
        'optimizer': {'state': {}, 'param_groups': []},
    }
    path = save(tmp_path, content)
    trained = load(path)
    assert same_trunk(trained, backbone)
    assert has_norm_of(trained, classifier)
    ema = load(path, ema=True)
    torch.testing.assert_close(ema.stem.weight, backbone.stem.weight + 1)
    loaded = ATMNet('xt')
    load_checkpoint(loaded, path)
    assert same_trunk(loaded, backbone)
    detector = Detector(ATMNet('xt'))
    load_checkpoint(detector, path)
    assert same_trunk(detector.backbone, backbone)
    assert has_norm_of(detector.backbone, classifier)
    load_checkpoint(detector, f'ema:{path}')
    assert same_trunk(detector.backbone, ema)


def test_segmentor_file_with_published_names(tmp_path, backbone):
    state = {f'backbone.{k}': v for k, v in published_state_dict('xt').items()}
    state['decode_head.conv_seg.weight'] = torch.zeros(150, 512, 1, 1)
    path = save(tmp_path, {'meta': {'CLASSES': ('wall',), 'iter': 160000}, 'state_dict': state})
    for model in (load(path), load(path, prefix='backbone.')):
        same_output(model, backbone)
    detector = Detector(ATMNet('xt'))
    load_checkpoint(detector, path)
    same_output(detector.backbone, backbone)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_whole_models_lack_nothing(prefix, tmp_path, backbone):
    model = Detector(ATMNet('xt'))
    head = {f'head.{name}': value for name, value in nn.Linear(2, 2).state_dict().items()}
    trunk = {f'backbone.{name}': value for name, value in published_state_dict('xt').items()}
    weights = {f'{prefix}{name}': value for name, value in {**trunk, **head}.items()}
    path = save(tmp_path, dict(state_dict=weights))
    load_whole_model(nn.DataParallel(model), path)
    same_output(model.backbone, backbone)
    assert torch.equal(model.head.weight, head['head.weight'])
    model.auxiliary_head = nn.Linear(2, 2)
    load_whole_model(model, path)

    for wrong in ({}, {'head.weight': torch.zeros(3, 2)}, {'head.weight': torch.zeros(2, 2)}):
        path = save(tmp_path, dict(state_dict={**trunk, **wrong}))
        with pytest.raises(CheckpointError, match=r'head\.(weight|bias)') as error:
            load_whole_model(model, path)
        assert len(str(error.value).splitlines()) == 1


def test_own_file_of_mmengine(tmp_path, backbone):
    history = HistoryBuffer([1.0, 0.5], [1, 1])
    content = {
        'meta': {'epoch': 3},
        'state_dict': Detector(backbone).state_dict(),
        'message_hub': {'log_scalars': {'train/loss': history}},
        # EMAHook stores the EMA weights in state_dict, and those of the last step here.
        'ema_state_dict': {
            'steps': torch.tensor(3),
            **{f'module.{k}': v + 1 for k, v in Detector(backbone).state_dict().items()},
        },
    }
    path = save(tmp_path, content)
    for model in (load(path), load(path, ema=True)):
        same_output(model, backbone)
    assert read_checkpoint(path)['message_hub']['log_scalars']['train/loss'].current() == 0.5


def test_other_layouts(tmp_path, backbone, classifier):
    for state in (published_state_dict('xt'), backbone.state_dict()):
        same_output(load(save(tmp_path, state)), backbone)
    parallel = {'model': {f'module.{k}': v for k, v in classifier.items()}}
    assert same_trunk(load(save(tmp_path, parallel)), backbone)
    for prefix in ('module.', '_orig_mod.'):
        state = {prefix + k: v for k, v in Detector(backbone).state_dict().items()}
        same_output(load(save(tmp_path, dict(state_dict=state))), backbone)
    fewer = ATMNet('xt', out_indices=(1, 3))
    load_checkpoint(fewer, save(tmp_path, published_state_dict('xt')))
    torch.testing.assert_close(fewer(IMAGE), backbone(IMAGE)[1::2], rtol=0, atol=0)


def test_files_of_other_models_are_unchanged(tmp_path):
    state = {'patch_embed.proj.weight': torch.zeros(2), 'norm.weight': torch.ones(1)}
    for content in (state, {'model': state, 'epoch': 1}, {'state_dict': state}, {1: 2}):
        torch.testing.assert_close(read_checkpoint(save(tmp_path, content)), content)


def test_log(tmp_path, classifier, monkeypatch):
    lines = []
    monkeypatch.setattr('mmatm.checkpoints.fitting.log', lines.append)
    load(save(tmp_path, {'model': classifier}))
    assert len([line for line in lines if 'dropped' in line]) == 1
    assert any('head.fc.weight' in line for line in lines)
    assert any('norm0.weight' in line for line in lines)  # left as initialized
    monkeypatch.setattr('mmatm.models.atmnet.log', lines.append)
    ATMNet('xt').init_weights()
    assert lines[-1] == 'ATMNet: no init_cfg, so it starts from random weights'


@pytest.mark.parametrize(
    ('head', 'changes', 'said'),
    [
        (False, {'blocks.2.1.atm.atm_h.weight': None}, 'stages.2.blocks.1.mixer.height.weight'),
        (False, {'norm_2.bias': None}, 'norm2.bias'),
        (False, {'norm_0.weight': None, 'norm_0.bias': None}, 'lacks 2 '),  # no classifier
        (True, {'norm.weight': None}, 'norm3.weight'),
        (True, {'blocks.0.1.norm1.bias': None}, 'stages.0.blocks.1.norm1.bias'),
        (False, {'patch_embed.proj.weight': torch.zeros(96, 3, 7, 7)},
         'stem.weight is [96, 3, 7, 7], expected [64'),
        (False, {'patch_embed.proj.bias': torch.zeros(64, device='meta')},
         'stem.bias has a shape but no data'),
        (False, {'patch_embed.proj.bias': torch.zeros(64).to_sparse()},
         'stem.bias is sparse_coo'),
        (False, {'patch_embed.proj.bias': torch.zeros(64, dtype=torch.complex64)},
         'stem.bias is complex'),
        (False, {'patch_embed.proj.bias':
                 torch.quantize_per_tensor(torch.zeros(64), 0.1, 0, torch.qint8)},
         'stem.bias is quantized'),
        # A convolution that would be flattened to the weight of a linear layer if it were dense.
        (False, {'blocks.0.0.mlp.fc1.weight': torch.zeros(512, 64, 1, 1).to_sparse()},
         'stages.0.blocks.0.mlp.fc1.weight is sparse'),
        (False, {'stem.bias': torch.zeros(64)},
         'stem.bias twice, in two layouts: as patch_embed.proj.bias and as stem.bias'),
    ],
)  # fmt: skip
def test_tensor_that_does_not_fit_is_named(head, changes, said, tmp_path):
    model = ATMNet('xt')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = published_state_dict('xt', head) | changes
    state = {name: value for name, value in state.items() if value is not None}
    attempts = [lambda: model.load_state_dict(dict(state))]
    # Torch 2.1 reads no quantized tensor from a file.
    readable = '_rebuild_qtensor' in str(torch._weights_only_unpickler._get_allowed_globals())
    if not any(value.is_meta or (value.is_quantized and not readable) for value in state.values()):
        path = save(tmp_path, {'model': state})
        attempts += [lambda: load(path), lambda: load_checkpoint(model, path)]
    for attempt in attempts:
        with pytest.raises(CheckpointError) as error:
            attempt()
        assert said in str(error.value)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_other_models_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match='lacks'):
        load_checkpoint(ATMNet('t'), save(tmp_path, published_state_dict('xt')))
    path = save(tmp_path, {'state_dict': {'backbone.conv1.weight': torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=r'conv1\.weight'):
        load_checkpoint(Detector(ATMNet('xt')), path)


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_file_is_rejected_and_not_run(tmp_path, classifier, legacy):
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
        # A pickle in torch's old format that ends within the length of a string.
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


def test_files_without_the_wanted_weights(tmp_path, classifier):
    with pytest.raises(FileNotFoundError, match='nowhere'):
        load(str(tmp_path / 'nowhere.pth'))
    with pytest.raises(CheckpointError, match='Tensor'):
        read_checkpoint(save(tmp_path, torch.zeros(3)))
    with pytest.raises(CheckpointError, match='model_ema'):
        load(save(tmp_path, {'model': classifier, 'model_ema': None}), ema=True)
