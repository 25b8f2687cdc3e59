"""Measuring configs: every head runs on random annotations, and figures add up."""

import math

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmatm.cli.arguments import read_config
from mmatm.engine.amp import CpuAmpOptimWrapper
from mmatm.measuring.configs import Options, Subject, distinct, measure_configs, table
from mmatm.measuring.models import random_batch, start_from_random

pytestmark = pytest.mark.usefixtures('reader')
SEGMENTOR, PANOPTIC = 'fpn_atmnet_xt_demo', 'mask2former_panoptic_atmnet_xt'
OPTIONS = Options(shape=(64, 96), rounds=1)
FEWER = {  # than Mask2Former usually has, for speed
    'model.panoptic_head.num_queries': 10,
    'model.panoptic_head.transformer_decoder.num_layers': 1,
    'model.train_cfg.num_points': 64,
}


def subject(name, options=OPTIONS, **settings):
    fewer = FEWER if name == PANOPTIC else {}
    return Subject(name, read_config(name, {**fewer, **settings}), options)


def test_heads_of_different_packages_in_one_call(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where there is no data
    names, notes = [SEGMENTOR, PANOPTIC], []
    results = measure_configs([subject(name) for name in names], OPTIONS, notes.append)
    assert list(results) == names
    for result in results.values():
        weights = 4 * result['parameters'] / 2**20
        assert 0 < result['flops_computed'] <= result['flops']
        assert result['inference']['mebibytes'] >= weights
        # Weights, gradients and the two averages of AdamW.
        assert result['train']['mebibytes'] >= 3.9 * weights
        assert result['train']['images_per_second'] == 2 / result['train']['seconds']
    assert len(notes) == 2
    for note, name in zip(notes, names, strict=True):
        assert note.startswith(f'data loading of {name} is not measured: ')
        assert '\n' not in note
    header, _, *rows = table(results).splitlines()
    assert 'training step' in header
    assert 'data loading' not in header
    assert [row.split(' | ')[0].strip('| ') for row in rows] == names
    assert rows[0].count('(1.00)') == 2


def test_steps_compute_gradients_and_leave_the_weights():
    segmentor = subject(SEGMENTOR)
    segmentor.build()
    step = segmentor.training_step()
    before = [parameter.clone() for parameter in segmentor.model.parameters()]
    step()
    averages = [s['exp_avg'].abs().sum() for s in segmentor.optimizer.optimizer.state.values()]
    assert len(averages) == len(before)
    assert sum(averages) > 0
    for old, new in zip(before, segmentor.model.parameters(), strict=True):
        assert torch.equal(old, new)
    yolox = subject('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py')
    yolox.build()
    yolox.training_step()()  # which depends on the iteration


def test_classifier_in_bfloat16():
    pytest.importorskip('mmpretrain')
    options = Options(shape=(64, 64), rounds=1, dtype=torch.bfloat16, parts=('inference', 'train'))
    classifier = subject('atmnet_xt_demo', options)
    (result,) = measure_configs([classifier], options, pytest.fail).values()
    assert isinstance(classifier.optimizer, CpuAmpOptimWrapper)
    assert {'inference', 'train'} <= set(result)
    assert 'data' not in result


def test_panoptic_annotations():
    panoptic = subject(PANOPTIC)
    panoptic.build()
    data, again = (random_batch(panoptic.model, (64, 96), 2) for _ in range(2))
    for sample, same in zip(data['data_samples'], again['data_samples'], strict=True):
        regions, objects = sample.gt_sem_seg.sem_seg, sample.gt_instances
        assert regions.shape == (1, 64, 96)
        assert regions.min() >= 80
        assert regions.max() < 133
        assert objects.labels.max() < 80
        assert objects.masks.masks.shape == (len(objects.labels), 64, 96)
        assert torch.equal(regions, same.gt_sem_seg.sem_seg)


def test_data_loading(demo_data):
    settings = {
        'train_dataloader.dataset.data_root': f'{demo_data}/ade20k',
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_dataloader.batch_size': 4,
    }
    options = Options(rounds=3, parts=('data',))
    (result,) = measure_configs(
        [subject(SEGMENTOR, options, **settings)], options, pytest.fail
    ).values()
    data = result['data']
    assert data['images_per_batch'] == 4
    assert data['workers'] == 0
    assert math.isclose(data['images_per_second'], 4 / data['seconds'])
    assert 'parameters' not in result
    settings |= {'train_dataloader.batch_size': 99, 'train_dataloader.drop_last': True}
    settings['train_dataloader.sampler.type'] = 'DefaultSampler'
    said: list[str] = []
    measure_configs([subject(SEGMENTOR, options, **settings)], options, said.append)
    assert 'it has no batch' in said[0]


def test_failure_names_config_size_and_part():
    with pytest.raises(ValueError, match=rf'{SEGMENTOR} .* 64 x 96: building its model') as error:
        subject(SEGMENTOR, **{'model.decode_head.channels': -1}).build()
    assert '\n' not in str(error.value)


def test_nothing_is_downloaded():
    pretrained = dict(type='Pretrained', checkpoint='https://example.org/a.pth')
    model = dict(
        pretrained='open-mmlab://resnet50_v1c',
        backbone=dict(init_cfg=pretrained, stages=[dict(init_cfg=dict(pretrained))]),
        head=dict(init_cfg=dict(type='Normal', std=0.1)),
        neck=dict(init_cfg=[dict(type='Kaiming')]),
    )
    start_from_random(model)
    assert model == dict(
        pretrained=None,
        backbone=dict(init_cfg=None, stages=[dict(init_cfg=None)]),
        head=dict(init_cfg=dict(type='Normal', std=0.1)),
        neck=dict(init_cfg=[dict(type='Kaiming')]),
    )


def test_names_differ():
    files = ['a/x.py', 'b/x.py', 'x.py', 'y.py']
    assert distinct(files, ['w/1.pth', None, None, '2.pth']) == ['x (1.pth)', 'x', 'x #2', 'y']
