"""mmatm weights, --pretrained, and the warning where a recipe starts from random weights."""

import hashlib

import pytest
import torch
from mmengine.config import Config

from commands import DETECTOR, ROOT, run
from mmatm.checkpoints import weights
from mmatm.cli.pretrained import AUTO, use_pretrained, warn_if_random
from mmatm.cli.weights import inspect, main
from mmatm.models import ARCHS, ATMNet
from reference import published_state_dict

CONFIG = ROOT / 'configs/segmentation/upernet_atmnet_t.py'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of weights."""
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    return tmp_path


def command(*arguments, code=0):
    return run('mmatm', 'weights', *arguments, code=code)


def test_files_are_found_by_name(folder):
    with pytest.raises(FileNotFoundError, match=r'1drv\.ms') as error:
        weights.find('t')
    assert str(folder / 'atmnet_t.pth') in str(error.value)
    (folder / 'activemlp_tiny.pth').touch()  # the authors' name
    assert weights.find('t') == folder / 'activemlp_tiny.pth'
    (folder / 'atmnet_t.pth').touch()
    assert weights.find('t') == folder / 'atmnet_t.pth'
    assert weights.find_file('ema:atmnet_t.pth') == f'ema:{folder / "atmnet_t.pth"}'
    with pytest.raises(FileNotFoundError, match=r'nothing\.pth'):
        weights.find_file('nothing.pth')
    with pytest.raises(ValueError, match='xxl'):
        weights.find('xxl')


def test_every_size_is_listed(folder):
    assert {w.arch for w in weights.PUBLISHED} == set(ARCHS)
    for names in ([w.file for w in weights.PUBLISHED], [w.url for w in weights.PUBLISHED]):
        assert len(set(names)) == len(names)
    page = (ROOT / 'docs' / 'weights.md').read_text()
    (folder / 'atmnet_s.pth').touch()
    printed = command()
    for published in weights.PUBLISHED:
        assert published.file in printed
        assert f'`{published.file}`' in page
        assert published.url in printed
        assert published.url in page
        for number in published.result.split()[-1:]:
            assert number in page
    assert f'here: {folder / "atmnet_s.pth"}' in printed


def test_pretrained_sets_init_cfg(folder):
    cfg = Config.fromfile(CONFIG)
    with pytest.raises(FileNotFoundError, match='browser'):
        use_pretrained(cfg, AUTO)
    assert 'init_cfg' not in cfg.model.backbone
    (folder / 'atmnet_t.pth').touch()
    use_pretrained(cfg, AUTO)
    expected = dict(type='Pretrained', checkpoint=str(folder / 'atmnet_t.pth'))
    assert cfg.model.backbone.init_cfg == expected
    cfg.model.backbone.type = 'ResNet'
    with pytest.raises(ValueError, match='ResNet'):
        use_pretrained(cfg, AUTO)
    for arch in ('zz', dict(depths=(1, 1, 1, 1))):  # sizes of one's own
        cfg.model.backbone.update(type='ATMNet', arch=arch, init_cfg=None)
        warn_if_random(cfg)
        with pytest.raises(ValueError, match='of a published size'):
            use_pretrained(cfg, AUTO)
    with pytest.raises(ValueError, match='a model with a backbone'):
        use_pretrained(Config(dict(model={})), AUTO)
    use_pretrained(cfg, 'https://example.org/file.pth')
    assert cfg.model.backbone.init_cfg.checkpoint == 'https://example.org/file.pth'


@pytest.mark.parametrize('change', [None, 'demo', 'classifier', 'load_from', 'init_cfg', 'rank'])
def test_random_weights_are_announced(change, folder, capsys, monkeypatch):
    cfg = Config.fromfile(CONFIG)
    if change == 'demo':
        cfg = Config.fromfile(ROOT / DETECTOR)
    elif change == 'classifier':
        cfg.default_scope = 'mmpretrain'
    elif change == 'load_from':
        cfg.load_from = 'file.pth'
    elif change == 'init_cfg':
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='file.pth')
    elif change == 'rank':
        monkeypatch.setenv('RANK', '1')
    warn_if_random(cfg)
    printed = capsys.readouterr().err
    if change is not None:
        assert not printed
        return
    assert len(printed.splitlines()) > 5
    assert 'ATMNet-t' in printed
    assert '--pretrained' in printed
    (folder / 'atmnet_t.pth').touch()
    warn_if_random(cfg)
    assert str(folder / 'atmnet_t.pth') in capsys.readouterr().err


def test_training_starts_from_the_file(options, tmp_path):
    file = tmp_path / 'mine.pth'
    torch.save({'model': published_state_dict('xt', head=True)}, file)
    words = ['tools/train.py', DETECTOR, '--work-dir', tmp_path / 'work']
    run(*words, '--pretrained', file, *options,
        'model.backbone.frozen_stages=4')  # fmt: skip
    trained = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    stem = torch.load(file)['model']['patch_embed.proj.weight']
    assert torch.equal(trained['backbone.stem.weight'], stem)
    printed = run(*words, '--pretrained', tmp_path / 'none.pth', *options, code=1)
    assert 'none.pth' in printed.strip().splitlines()[-1]
    assert 'Traceback' not in printed


@pytest.mark.parametrize('arch', sorted(ARCHS))
def test_sizes_are_told_apart(arch):
    with torch.device('meta'):
        state = ATMNet(arch).state_dict()
    found = inspect({f'backbone.{name}': value for name, value in state.items()})
    assert found.arch == arch
    assert found.is_whole
    assert found.stages == 4
    assert not found.head


def test_weights_without_a_backbone():
    assert inspect({'head.fc.weight': torch.zeros(5, 2)}).arch is None


@pytest.mark.parametrize(
    ('config', 'head'),
    [
        ('segmentation/upernet_atmnet_l', 'UperNet, 150 classes'),
        ('segmentation/fpn_atmnet_xt', 'Semantic FPN, 150 classes'),
        ('detection/mask_rcnn_atmnet_xt_demo', 'Mask R-CNN, 4 classes'),
        ('detection/cascade_mask_rcnn_atmnet_s_ms_3x', 'Cascade Mask R-CNN, 80 classes'),
        ('detection/retinanet_atmnet_b', 'RetinaNet'),
    ],
)
def test_heads_are_told_apart(config, head):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        found = inspect(MODELS.build(cfg.model).state_dict())
    assert found.head == head
    assert found.is_whole
    assert found.arch == cfg.model.backbone.arch


def test_check(folder):
    file = folder / 'file.pth'
    state = published_state_dict('xt', head=True)
    torch.save({'model': state, 'model_ema': state}, file)
    printed = command('--check', 'file.pth', 'ema:file.pth')
    assert printed.count('every tensor of the backbone is there') == 2
    assert hashlib.sha256(file.read_bytes()).hexdigest() in printed
    assert 'ATMNet-xt' in printed
    assert 'classifier, 1000 classes' in printed
    assert 'NOT' not in printed

    del state['blocks.2.1.mlp.fc1.bias'], state['norm.weight']
    state['patch_embed.proj.bias'] = torch.zeros(3)
    state['blocks.1.0.surplus.weight'] = torch.zeros(3)
    torch.save({'model': state}, file)
    printed = command('--check', file, code=1)
    assert 'ATMNet-xt' in printed
    assert 'NOT WHOLE' in printed
    assert 'norm3.weight' in printed
    assert 'stages.2.blocks.1.mlp.fc1.bias' in printed
    assert 'stem.bias is [3], expected [64]' in printed
    assert 'surplus' in printed


def test_check_of_other_files_is_one_sentence(folder, monkeypatch, capsys):
    file = folder / 'file.pth'
    monkeypatch.setattr('sys.argv', ['mmatm weights', '--check', str(file)])

    def printed():
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        assert end.value.code != 0
        return f'{output.out}{output.err}{end.value.code}'

    for content in (None, b'', b'not a file of torch'):
        if content is not None:
            file.write_bytes(content)
        said = printed()
        assert str(file) in said
        assert len(said.splitlines()) == 1
    monkeypatch.setattr('sys.argv', ['mmatm weights', '--check', 'http://127.0.0.1:9/x.pth'])
    assert 'http://127.0.0.1:9/x.pth cannot be downloaded' in printed()
    monkeypatch.setattr('sys.argv', ['mmatm weights', '--check', str(file)])
    torch.save({'state_dict': {'conv1.weight': torch.zeros(3)}}, file)
    assert 'no ATMNet' in printed()
