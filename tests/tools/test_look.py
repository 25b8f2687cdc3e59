"""tools/look.py on detectors, segmentors, classifiers and timm models, and on bad input."""

import json
import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from commands import DETECTOR, SEGMENTOR, run
from mmatm.export.setup import known_classes
from mmatm.look.running import _pipeline
from mmatm.models import ATMNetClassifier

CAM = ['--cam'] if find_spec('pytorch_grad_cam') else []


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    """An image file of 96x64 pixels."""
    file = tmp_path_factory.mktemp('image') / 'street.png'
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(file)
    return file


def content(page):
    """What a page holds."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)[1])


def test_detector_compared_with_random_weights(detector, image, tmp_path):
    pytest.importorskip('mmdet')
    page, figure = tmp_path / 'look.html', tmp_path / 'look.pdf'
    printed = run(
        'tools/look.py', image, DETECTOR, detector / 'epoch_1.pth', '--compare', 'random',
        '--out', page, '--figure', figure, '--score-thr', 0, *CAM,
    )  # fmt: skip
    assert 'of a token' in printed
    found = content(page)
    assert [model['name'] for model in found['models']] == ['epoch_1.pth', 'random weights']
    assert found['image']['width'] == 96
    model = found['models'][0]
    assert [b['stage'] for b in model['blocks']] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert (model['offsets'][0]['height'], model['offsets'][0]['width']) == (16, 24)
    assert model['found']['kind'] == 'instances'
    assert model['found']['items']
    for item in model['found']['items']:
        assert all(0 <= v <= 96 for v in item['box'])
        assert str(item['label']) in model['found']['names']
    assert len(model['cams']) == (min(len(model['found']['names']), 5) if CAM else 0)
    assert figure.read_bytes().startswith(b'%PDF')


def test_segmentor_and_its_data_alone(segmentor, image, tmp_path):
    pytest.importorskip('mmseg')
    data, page = tmp_path / 'look.json', tmp_path / 'look.html'
    run('tools/look.py', image, SEGMENTOR, segmentor / 'iter_2.pth', '--out', data, *CAM)
    run('tools/look.py', data, '--out', page)
    found = content(page)
    assert found == json.loads(data.read_text())
    model = found['models'][0]
    assert model['found']['kind'] == 'labels'
    size = (found['image']['height'], found['image']['width'])
    assert (model['found']['height'], model['found']['width']) == size
    assert bool(model['cams']) == bool(CAM)


def test_timm_model(image, tmp_path):
    classifier = ATMNetClassifier('xt', num_classes=5)
    checkpoint, page = tmp_path / 'timm.pth', tmp_path / 'look.html'
    torch.save(classifier.state_dict(), checkpoint)
    run('tools/look.py', image, 'atmnet_xt', checkpoint, '--out', page, *CAM)
    found = content(page)
    assert (found['image']['width'], found['image']['height']) == (224, 224)  # as evaluated
    assert [len(found['models'][0]['found']['items']), len(found['models'][0]['cams'])] == [
        5, 5 * len(CAM),
    ]  # fmt: skip
    run('tools/look.py', image, 'atmnet_xt', '--max-size', 48, '--out', page, '--force')
    found = content(page)
    assert (found['image']['width'], found['image']['height']) == (48, 32)
    assert found['models'][0]['found']['kind'] == 'nothing'


def test_mmpretrain_classifier(image, tmp_path):
    pytest.importorskip('mmpretrain')
    page = tmp_path / 'look.html'
    run('tools/look.py', image, 'atmnet_xt_demo', '--out', page, *CAM)
    model = content(page)['models'][0]
    assert model['found']['kind'] == 'classes'
    assert set(model['found']['names'].values()) == {'circle', 'square', 'star', 'triangle'}


@pytest.mark.parametrize(('scale', 'limited'), [(512, 256), ((1333, 200), (256, 200))])
def test_test_set_in_wrappers(scale, limited):
    pipeline = [dict(type='Resize', scale=scale), dict(type='LoadAnnotations')]
    dataset = dict(type='CocoDataset', metainfo=dict(classes=['cat']), pipeline=pipeline)
    sets = dict(type='ConcatDataset', datasets=[dataset, dataset])
    cfg = Config(dict(test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=sets))))
    assert _pipeline(cfg, 256) == [dict(type='Resize', scale=limited)]
    assert known_classes(cfg, {})[0] == ['cat']


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['missing.png', DETECTOR], 'missing.png does not exist'),
        (['IMAGE', DETECTOR, 'missing.pth'], 'missing.pth does not exist'),
        (['IMAGE', DETECTOR, '--compare', 'missing.pth'], 'missing.pth does not exist'),
        (['IMAGE', 'mask_rcnn_atmnet_x'], 'did you mean'),
        (['IMAGE'], 'CONFIG is missing'),
        (['IMAGE', 'resnet18'], 'ATMNet'),
        (['IMAGE', DETECTOR, '--cfg-options', 'model.type=MaskRNN'], 'type MaskRNN,'),
        (['README.md', 'atmnet_xt'], 'README.md cannot be read as an image'),
        (['IMAGE', 'atmnet_xt', 'README.md'], 'README.md'),
        (['TINY', 'atmnet_xt', '--max-size', '32'], '--max-size'),
        (['IMAGE', 'atmnet_xt', '--out', 'EXISTING.html'], '--force'),
        (['IMAGE', 'atmnet_xt', '--out', 'look.txt'], '.html'),
        (['IMAGE', 'atmnet_xt', '--out', 'no/such/look.html'], 'no/such'),
        (['IMAGE', 'atmnet_xt', '--figure', 'look.gif'], '.pdf'),
        (['IMAGE', 'atmnet_xt', '--max-size', '3'], '--max-size'),
        (['IMAGE', 'atmnet_xt', '--figure', 'x.png', '--token', '2', '0'], '--token'),
        (['IMAGE', 'atmnet_xt', '--device', 'gpu'], '--device must be'),
        (['IMAGE', 'atmnet_xt', '--limit', 'nan'], '--limit'),
        (['IMAGE', DETECTOR, '--cfg-options', 'test_dataloader=None'], 'sets no test_dataloader'),
        (['DATA', '--out', 'look.json'], 'must end in .html'),
        (['DATA'], 'data.json holds no data of a page'),
    ],
)
def test_bad_input_is_one_sentence(arguments, expected, image, tmp_path):
    existing = tmp_path / 'existing.html'
    existing.write_text('mine')
    tiny = tmp_path / 'tiny.png'
    Image.new('RGB', (320, 10)).save(tiny)  # one pixel high at --max-size 32
    (tmp_path / 'data.json').write_text('{"images": []}')
    places = {
        'DATA': tmp_path / 'data.json',
        'IMAGE': image,
        'TINY': tiny,
        'EXISTING.html': existing,
    }
    printed = run('tools/look.py', *(places.get(a, a) for a in arguments), code=1)
    assert expected in printed.strip().splitlines()[-1]
    assert 'Traceback' not in printed
    assert existing.read_text() == 'mine'
