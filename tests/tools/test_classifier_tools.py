"""tools/train.py and tools/test.py for classification, as in docs/classification.md."""

import json
import pickle
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import mmatm  # noqa: F401  registers the timm models
from commands import ROOT, derive, metrics, run
from reference import published_state_dict

CONFIG = 'configs/classification/atmnet_xt_in1k.py'
BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'classification.md').read_text(), re.S)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """ImageNet's layout with two classes of one color each."""
    root = tmp_path_factory.mktemp('imagenet')
    random = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for label, name in enumerate(('circle', 'square')):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 100, (40, 48, 3), dtype=np.uint8)
                pixels[..., label] += 155
                Image.fromarray(pixels).save(root / split / name / f'{i}.jpg')
    return root


@pytest.fixture(scope='module')
def config(folders, tmp_path_factory):
    """The documented config for own folders, shortened, with published weights."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('config')
    torch.save({'model': published_state_dict('xt', head=True)}, folder / 'published.pth')
    (own,) = (block for block in BLOCKS if block.startswith('_base_'))
    base, rest = own.split('\n', 1)
    assert base == "_base_ = './atmnet_t_in1k.py'"
    for old, new in [('data/mine', folders), ('atmnet_t.pth', folder / 'published.pth')]:
        assert old in rest
        rest = rest.replace(old, str(new))
    small = ''.join(
        f'{s}_dataloader.update(dict(batch_size=4, num_workers=0, persistent_workers=False))\n'
        for s in ('train', 'val')
    )
    return derive(CONFIG, rest + small + 'train_cfg = dict(max_epochs=1)\n', folder / 'mine.py')


@pytest.fixture(scope='module')
def work_dir(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('work')
    run('tools/train.py', config, '--work-dir', folder, '--cfg-options',
        'train_dataloader.dataset.pipeline.1.scale=64', 'log_level=WARNING')  # fmt: skip
    return folder


def test_trains_and_its_weights_load_into_timm(work_dir, tmp_path):
    run('tools/convert_checkpoint.py', work_dir / 'epoch_1.pth', tmp_path / 'xt.safetensors',
        '--to', 'timm')  # fmt: skip
    (file,) = tmp_path.glob('xt-*.safetensors')
    model = timm.create_model('atmnet_xt', num_classes=2, checkpoint_path=str(file))
    start = published_state_dict('xt', head=True)
    torch.testing.assert_close(
        model.stem.weight, start['patch_embed.proj.weight'], atol=1e-3, rtol=0
    )
    assert not torch.equal(model.stem.weight, start['patch_embed.proj.weight'])


@pytest.mark.parametrize(
    ('classes', 'said'),
    [
        (['square', 'circle'], 'so class 0 is circle, but the config lists square there'),
        (['circle'], 'the classes are 1, circle, but {} has 2 folders, circle, square'),
    ],
)
def test_classes_must_be_those_of_the_folders(classes, said, config, folders, tmp_path):
    settings = f'train_dataloader = dict(dataset=dict(metainfo=dict(classes={classes})))'
    other = derive(config, settings, tmp_path / 'other.py')
    printed = run('tools/train.py', other, '--work-dir', tmp_path, code=1)
    assert said.format(folders / 'train') in printed.splitlines()[-1]


def test_wrong_number_of_folders_is_one_sentence(config, work_dir, tmp_path):
    options = ['--cfg-options', 'test_dataloader.dataset.metainfo.classes=[circle]']
    checkpoint = work_dir / 'epoch_1.pth'
    printed = run('tools/test.py', config, checkpoint, '--work-dir', tmp_path, *options, code=1)
    assert 'The number of subfolders (2)' in printed.splitlines()[-1]


@pytest.mark.parametrize('options', [['--show-dir'], ['--tta']])
def test_evaluates(config, work_dir, tmp_path, options):
    out, images = tmp_path / 'predictions.pkl', tmp_path / 'images'
    if options == ['--show-dir']:
        options = ['--show-dir', images]
    run('tools/test.py', config, f'ema:{work_dir / "epoch_1.pth"}', '--work-dir', tmp_path,
        '--out', out, *options)  # fmt: skip
    predictions = pickle.loads(out.read_bytes())
    assert [p['pred_score'].shape for p in predictions] == [(2,)] * 4
    # With --tta, mmpretrain averages the scores but leaves the label of one view.
    right = sum(p['pred_score'].argmax() == p['gt_label'] for p in predictions).item()
    assert metrics(tmp_path)['accuracy/top1'] == pytest.approx(100 * right / 4)
    assert images.exists() == (options[0] == '--show-dir')


def test_missing_package_is_named():
    from mmatm.cli.arguments import _exit_without

    with pytest.raises(SystemExit, match=r'mmatm\[classification\]') as error:
        _exit_without('mmpretrain', CONFIG)
    assert CONFIG in str(error.value)


def test_report(work_dir, tmp_path):
    run('tools/report.py', work_dir, '--out', tmp_path / 'report.html')
    page = re.search(r'id="data">(.*?)</script>', (tmp_path / 'report.html').read_text(), re.S)
    page = json.loads(page[1])
    (kind,) = page['kinds']
    right = sum(row[0] for row in kind['right'])
    assert sum(kind['positives']) == len(page['images']) == 4
    assert page['metrics']['accuracy/top1'] == pytest.approx(100 * right / 4)
    assert page['classes'] == ['circle', 'square']
