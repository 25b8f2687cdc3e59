"""tools/convert_checkpoint.py: nothing is lost, and other files are rejected."""

import hashlib
import os
import sys
from pathlib import Path

import convert_checkpoint
import pytest
import timm
import torch
from mmengine.runner import load_checkpoint
from safetensors.torch import load_file, save_file

from commands import run
from hostile import Bomb
from mmatm.models import ATMNet
from reference import published_state_dict

IMAGE = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)


@pytest.fixture
def convert(monkeypatch, capsys):
    """Run the tool in this process and return the only file that it wrote."""

    def call(src, dst, *options):
        before = set(dst.parent.iterdir())
        arguments = ['convert_checkpoint.py', str(src), str(dst), *options]
        monkeypatch.setattr(sys, 'argv', arguments)
        convert_checkpoint.main()
        (file,) = set(dst.parent.iterdir()) - before
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert file.name == f'{dst.stem}-{digest[:8]}{dst.suffix}'
        assert f'{file}: ATMNet-xt' in capsys.readouterr().out
        return file

    return call


def read(file):
    if file.suffix == '.safetensors':
        return load_file(file)
    content = torch.load(file, weights_only=True)
    return content.get('state_dict', content.get('model', content))


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name


@pytest.fixture
def classifier(tmp_path):
    path = tmp_path / 'src' / 'classifier.pth'
    path.parent.mkdir()
    weights = published_state_dict('xt', head=True)
    ema = {name: value + 1 for name, value in weights.items()}
    torch.save({'model': weights, 'model_ema': ema, 'optimizer': {'state': {}}}, path)
    return path


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_classifier_round_trip(classifier, tmp_path, convert, suffix):
    file = classifier
    kinds = []
    for to in ('mm', 'timm', 'published', 'timm', 'mm', 'published'):
        file = convert(file, tmp_path / f'{len(kinds)}{to}{suffix}', '--to', to)
        kinds.append(read(file))
    mm, timm_weights, published, *again = kinds
    same(published, published_state_dict('xt', head=True))
    for one, other in zip(again, (timm_weights, mm, published), strict=True):
        same(one, other)
    model = timm.create_model('atmnet_xt')
    model.load_state_dict(timm_weights)
    same(timm_weights, model.state_dict())
    assert {n for n in mm if not n.startswith('backbone.')} == {'head.fc.weight', 'head.fc.bias'}
    if suffix == '.pth':
        assert torch.load(file, weights_only=True).keys() == {'model'}


def test_ema_weights(classifier, tmp_path, convert):
    file = convert(classifier, tmp_path / 'ema.pth', '--to', 'published', '--ema')
    same(read(file), {n: v + 1 for n, v in published_state_dict('xt', head=True).items()})


def test_other_classes_channels_and_type(tmp_path, convert):
    model = timm.create_model('atmnet_xt', num_classes=3, in_chans=1).half()
    src = tmp_path / 'src.safetensors'
    save_file(model.state_dict(), src)
    there = convert(src, tmp_path / 'there.pth', '--to', 'published')
    same(read(convert(there, tmp_path / 'back.pth', '--to', 'timm')), model.state_dict())


@pytest.mark.parametrize('names', ['own', 'published'])
def test_dense_model(tmp_path, convert, names):
    backbone = ATMNet('xt')
    backbone.load_state_dict(published_state_dict('xt'))
    weights = backbone.state_dict() if names == 'own' else published_state_dict('xt')
    state = {f'backbone.{n}': v for n, v in weights.items()} | {'neck.weight': torch.ones(2)}
    src = tmp_path / 'src.pth'
    torch.save({'state_dict': state, 'optimizer': {}, 'meta': {'classes': ('x',)}}, src)

    mm = torch.load(convert(src, tmp_path / 'mm.pth'), weights_only=True)
    assert mm.keys() == {'meta', 'state_dict'}
    assert mm['meta'] == {'classes': ('x',)}
    expected = {f'backbone.{n}': v for n, v in backbone.state_dict().items()}
    same(mm['state_dict'], expected | {'neck.weight': torch.ones(2)})

    there = convert(src, tmp_path / 'published.pth', '--to', 'published')
    same(read(there), {f'backbone.{n}': v for n, v in published_state_dict('xt').items()})
    loaded = ATMNet('xt')
    load_checkpoint(loaded, str(there))
    torch.testing.assert_close(loaded(IMAGE), backbone(IMAGE), rtol=0, atol=0)

    features = timm.create_model('atmnet_xt', num_classes=0)
    features.load_state_dict(read(convert(src, tmp_path / 'timm.pth', '--to', 'timm')))
    torch.testing.assert_close(
        features.eval().forward_features(IMAGE).permute(0, 3, 1, 2), backbone(IMAGE)[3]
    )


def changed(name, value):
    """A classifier file in which one tensor is replaced, added or removed."""
    state = published_state_dict('xt', head=True) | {name: value}
    return {'model': {k: v for k, v in state.items() if v is not None}}


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (None, 'does not exist'),
        ({'state_dict': {'backbone.conv1.weight': torch.zeros(3)}}, 'holds no ATMNet'),
        ([1, 2], 'must hold a dict'),
        (('blocks.0.2.norm1.weight', torch.zeros(64)), r'\(3, 2, 4, 2\) blocks per stage'),
        (('blocks.1.1.mlp.fc1.weight', torch.zeros(256, 128)),
         r'fc1\.weight is \[256, 128\], expected \[512, 128\]'),
        (('head.weight', torch.zeros(1000, 768)), r'\[classes, 512\]'),
        (('norm.weight', 3), r'norm3\.weight holds no plain real numbers: it is not a tensor'),
        (('norm.weight', torch.ones(512).to_sparse()), r'norm3\.weight .* it is sparse_coo'),
        (('blocks.0.0.gamma', torch.zeros(64)), '1 more tensors'),
        (('blocks.3.0.norm2.bias', None), r'lacks 1 .*stages\.3\.blocks\.0\.norm2\.bias'),
        (b'PK', 'damaged'),
        (Bomb, 'execute code'),
    ],
)  # fmt: skip
@pytest.mark.parametrize('legacy', [False, True])
def test_rejected(content, said, legacy, tmp_path, monkeypatch):
    path = tmp_path / 'src.pth'
    if content is Bomb:
        content = {'model': Bomb(tmp_path / 'executed')}
    if isinstance(content, tuple):
        content = changed(*content)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    before = set(tmp_path.iterdir())
    argv = ['convert_checkpoint.py', str(path), str(tmp_path / 'out.pth')]
    monkeypatch.setattr(sys, 'argv', argv)
    with pytest.raises(SystemExit, match=said) as error:
        convert_checkpoint.main()
    assert str(path) in str(error.value)
    assert set(tmp_path.iterdir()) == before


def test_failed_write_leaves_nothing(classifier, tmp_path, monkeypatch):
    def fail(_):  # the file is written by then
        raise OSError('no space left')

    monkeypatch.setattr(os, 'fsync', fail)
    before = set(tmp_path.iterdir())
    argv = ['convert_checkpoint.py', str(classifier), str(tmp_path / 'out.pth')]
    monkeypatch.setattr(sys, 'argv', argv)
    with pytest.raises(OSError, match='no space'):
        convert_checkpoint.main()
    assert set(tmp_path.iterdir()) == before


def test_bad_destinations_are_named(classifier, tmp_path):
    for dst, said in [(tmp_path / 'x.bin', '.bin'), (tmp_path / 'no' / 'x.pth', 'does not exist'),
                      (Path('/proc/x.pth'), 'cannot be written')]:  # fmt: skip
        assert said in run('tools/convert_checkpoint.py', classifier, dst, code=1)
