"""Metrics of mmdet that need packages of their own."""

import json

import pytest
from mmengine.config import Config

from mmatm.cli import arguments

pytest.importorskip('mmdet')


@pytest.mark.parametrize(
    ('metric', 'said'),
    [
        ('CocoPanopticMetric', 'panopticapi, which .* "pip install --no-deps panopticapi-lite"'),
        ('LVISMetric', 'lvis, which is not installed: run "pip install lvis"'),
    ],
)
def test_missing_package_is_one_sentence(metric, said, monkeypatch):
    monkeypatch.setattr(arguments, 'find_spec', lambda _: None)
    metrics = [dict(type=metric, ann_file='none.json')]
    cfg = Config(dict(val_evaluator=dict(type='MultiDatasetsEvaluator', metrics=metrics)))
    with pytest.raises(SystemExit, match=f'{metric} needs {said}'):
        arguments.check_data(cfg, 'val_dataloader')


def test_lvis_gives_its_own_boxes_full_marks(demo_data, tmp_path, monkeypatch):
    """Also with numpy 2, for which lvis was not written."""
    pytest.importorskip('lvis', reason='the extra "evaluation" is not installed')
    import numpy as np
    import torch
    from mmdet.evaluation import LVISMetric

    if not hasattr(np, 'float'):
        monkeypatch.setattr(np, 'float', float, raising=False)
        monkeypatch.delattr(np, 'float')
    content = json.loads((demo_data / 'coco/annotations/instances_val2017.json').read_text())
    for category in content['categories']:
        category['frequency'] = 'f'
    for image in content['images']:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    file = tmp_path / 'lvis_v1_val.json'
    file.write_text(json.dumps(content))
    arguments.check_data(
        Config(dict(val_evaluator=dict(type='LVISMetric', ann_file=str(file)))), 'val_dataloader'
    )

    metric = LVISMetric(str(file), metric='bbox')
    metric.dataset_meta = dict(classes=[category['name'] for category in content['categories']])
    for image in content['images']:
        found = [a for a in content['annotations'] if a['image_id'] == image['id']]
        boxes = torch.tensor([a['bbox'] for a in found])
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([a['category_id'] - 1 for a in found])
        instances = dict(bboxes=boxes, labels=labels, scores=torch.ones(len(found)))
        sample = dict(
            img_id=image['id'], ori_shape=(image['height'], image['width']),
            pred_instances=instances,
        )  # fmt: skip
        metric.process({}, [sample])
    assert metric.evaluate(len(content['images']))['lvis/bbox_AP'] == 1.0


def test_only_imagenet_has_a_folder_per_split(tmp_path):
    def check(kind):
        dataset = dict(type=kind, data_root=str(tmp_path), split='test')
        arguments.check_data(Config(dict(test_dataloader=dict(dataset=dataset))), 'test_dataloader')

    check('CIFAR10')
    for kind in ('ImageNet', 'mmpretrain.ImageNet'):
        with pytest.raises(SystemExit, match=f'{tmp_path}/test was looked for'):
            check(kind)
