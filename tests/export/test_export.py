"""Files of whole models find in onnxruntime what mm's own prediction finds in torch."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch

pytest.importorskip('onnx', reason='the extra "export" is not installed')
pytest.importorskip('onnxruntime', reason='the extra "export" is not installed')

import onnx
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

import mmatm  # noqa: F401  registers ATMNet
from mmatm.export import ExportError
from mmatm.export.graph import describe, export_onnx, preparation
from mmatm.export.graph import test_size as size_of
from mmatm.export.models import deployed
from mmatm.export.plain import plain_layers
from mmatm.export.setup import build, class_names
from mmatm.export.verify import (
    Session,
    compare,
    differences,
    exceeded,
    noise,
    predict,
    with_threshold,
)  # fmt: skip
from mmatm.export.verify import test_step as step_of
from mmatm.packaged import find_config
from reference import published_state_dict

NAMES = {
    'atmnet_xt_demo': 'mmpretrain',
    'fpn_atmnet_xt_demo': 'mmseg',
    'upernet_atmnet_xt_demo': 'mmseg',
    'retinanet_atmnet_xt_demo': 'mmdet',
    'mask_rcnn_atmnet_xt_demo': 'mmdet',
    'faster': 'mmdet',  # the same without masks
    'cascade_mask_rcnn_atmnet_xt_ms_3x': 'mmdet',
}
SOFTMAX = dict(_delete_=True, type='CrossEntropyLoss')
SIZES = ((96, 64), (61, 83), (33, 130))  # the trace has another


def config(name):
    pytest.importorskip(NAMES[name])
    cfg = Config.fromfile(find_config(name.replace('faster', 'mask_rcnn_atmnet_xt_demo')))
    init_default_scope(cfg.default_scope)
    if name == 'faster':
        cfg.model.type = 'FasterRCNN'
        cfg.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    if name.startswith('retinanet'):
        cfg.model.bbox_head.bbox_coder.clip_border = False
    if name.startswith('cascade'):
        for head in cfg.model.roi_head.bbox_head:
            head.update(num_classes=4, fc_out_channels=64)
        cfg.model.roi_head.bbox_head[0].reg_class_agnostic = False
        cfg.model.roi_head.mask_head.class_agnostic = True
        cfg.model.roi_head.mask_head.update(num_classes=4, num_convs=1)
        cfg.model.test_cfg.rpn.update(nms_pre=200, max_per_img=50)
        cfg.model.test_cfg.rcnn.max_per_img = 20
    return cfg


def random_model(cfg):
    """A model whose scores differ enough that rounding does not decide their order."""
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    for name, value in model.named_parameters():
        if name.endswith(('offset.1.weight', 'rpn_cls.weight', 'retina_cls.weight')):
            value.data *= 8
    return deployed(model.eval())


def export(cfg, model, path, **options):
    texts = describe(cfg, model, ['name'])
    export_onnx(model, path, texts, (64, 64), **options)
    return path


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A function of a config's name that gives the config, a random model and its file, once."""
    files = {}

    def get(name):
        if name not in files:
            cfg = config(name)
            model = random_model(cfg)
            path = export(cfg, model, tmp_path_factory.mktemp('onnx') / f'{name}.onnx')
            files[name] = cfg, model, path
        return files[name]

    return get


@pytest.mark.parametrize('name', NAMES)
def test_agrees_with_mm_at_other_sizes(name, exported):
    _, model, path = exported(name)
    images = [(noise(h, w, seed=h), (h * 2 + 1, w + 9)) for h, w in SIZES]
    results = list(compare(path, model, images))
    assert len(results) == len(SIZES) * (2 if model.kind == 'detector' else 1)
    for where, values in results:
        assert not exceeded(model, values), where
        assert set(values) >= set(model.outputs)
    if model.kind == 'detector':
        assert ', 20 objects' in results[-1][0]


@pytest.mark.parametrize('name', NAMES)
def test_is_standard_and_describes_itself(name, exported):
    proto = onnx.load(exported(name)[2])
    assert {node.domain for node in proto.graph.node} == {''}
    texts = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(texts['classes']) == ['name']
    assert json.loads(texts['min_size']) == 3
    assert {'kind', 'preparation', 'config', 'mmatm'} <= set(texts)
    if texts['kind'] == 'detector':
        assert json.loads(texts['score_threshold']) == 0.05
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in sizes][2:] == ['height', 'width']


@pytest.mark.parametrize('name', ['atmnet_xt_demo', 'fpn_atmnet_xt_demo'])
def test_takes_batches(name, exported):
    _, model, path = exported(name)
    images = torch.cat([noise(40, 72, seed) for seed in range(3)])
    found, expected = Session(path)(images, (50, 90)), predict(model, images, (50, 90))
    assert not exceeded(model, differences(found, expected))


def test_the_smallest_image(exported):
    for name in ('fpn_atmnet_xt_demo', 'mask_rcnn_atmnet_xt_demo'):
        _, model, path = exported(name)
        image = noise(3, 4, seed=0)
        values = differences(Session(path)(image, (3, 4)), predict(model, image, (3, 4)))
        assert not exceeded(model, values)


@pytest.mark.parametrize('name', [name for name, scope in NAMES.items() if scope == 'mmdet'])
def test_nothing_found(name, exported):
    _, model, path = exported(name)
    found = Session(with_threshold(path, 1.5))(noise(50, 70, seed=0), (50, 70))
    assert {n: tuple(v.shape) for n, v in found.items()} == {
        n: dict(boxes=(0, 4), masks=(0, 28, 28)).get(n, (0,)) for n in model.outputs
    }


def test_other_opset_float_input_and_external_data(exported, tmp_path, monkeypatch):
    cfg, model, path = exported('fpn_atmnet_xt_demo')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.onnx.data').write_text('older weights')
    other = export(cfg, model, tmp_path / 'a.onnx', opset=20, float_input=True, external_data=True)
    assert sorted(f.name for f in tmp_path.iterdir()) == ['a.onnx', 'a.onnx.data']
    assert other.stat().st_size < path.stat().st_size / 4
    assert len({file.stat().st_mode for file in (path, *tmp_path.iterdir())}) == 1
    session, image = Session(other), noise(50, 70, seed=1)
    assert session.inputs['image'] == 'tensor(float)'
    values = differences(session(image, (50, 70)), predict(model, image, (50, 70)))
    assert not exceeded(model, values)
    with pytest.raises(ValueError, match='has no score_threshold'):
        with_threshold(other, 0.5)


@pytest.mark.parametrize('name', ['atmnet_xt_demo', 'mask_rcnn_atmnet_xt_demo'])
def test_evaluates_in_place_of_the_model(name, exported):
    _, model, path = exported(name)
    image, size = noise(50, 70, seed=1), (60, 90)
    expected = predict(model, image, size)
    module, kind = f'{NAMES[name]}.structures', ['DataSample', 'DetDataSample']['mask' in name]
    sample = getattr(import_module(module), kind)(metainfo=dict(ori_shape=size))
    step_of(Session(path), model)(dict(inputs=[image[0].flip(0)], data_samples=[sample]))
    if model.kind == 'classifier':
        torch.testing.assert_close(sample.pred_score, expected['scores'][0], rtol=0, atol=1e-4)
        assert sample.pred_label == expected['scores'].argmax()
    else:
        found = sample.pred_instances
        torch.testing.assert_close(found.scores, expected['scores'], rtol=0, atol=1e-3)
        assert (found.masks != expected['masks']).float().mean() < 1e-2


def test_layers_of_other_settings():
    x = torch.rand(1, 2, 5, 7)
    pool = torch.nn.AdaptiveAvgPool2d((None, 3))
    expected = pool(x)
    with plain_layers(pool, 64, 64):
        torch.testing.assert_close(pool(x), expected)
    resize = pytest.importorskip('mmseg.models.utils').Upsample(scale_factor=1.5)
    with plain_layers(resize, 64, 64), pytest.raises(ExportError, match='resized by whole factors'):
        resize(x)


def test_differences_are_noticed():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    found = dict(boxes=boxes, scores=torch.tensor([0.9, 0.8]), labels=torch.tensor([0, 1]))
    swapped = {name: value.flip(0) for name, value in found.items()}
    assert max(differences(found, swapped).values()) == 0
    assert differences(found, {**found, 'boxes': boxes + 1})['boxes'] > 0.1
    assert differences(found, {**found, 'labels': torch.tensor([0, 0])})['labels'] == 0.5
    assert (
        differences(found, {**found, 'boxes': boxes * torch.tensor([[1], [2]])}, 0.5)['boxes'] == 0
    )
    fewer = {name: value[:1] for name, value in found.items()}
    assert differences(found, fewer)['scores'] == float('inf')
    none = {name: value[:0] for name, value in found.items()}
    assert max(differences(none, none).values()) == 0
    labels = dict(labels=torch.zeros(1, 4, 4))
    assert differences(labels, dict(labels=torch.zeros(1, 4, 5)))['labels'] == float('inf')
    nan = {**found, 'scores': torch.tensor([0.9, float('nan')])}
    model = type('Model', (), dict(kind='detector'))
    assert exceeded(model, differences(found, nan))


def test_published_classifier(tmp_path):
    pytest.importorskip('mmpretrain')
    torch.save({'model': published_state_dict('xt', head=True)}, tmp_path / 'published.pth')
    cfg = Config.fromfile(find_config('atmnet_xt_in1k'))
    model, meta = build(cfg, str(tmp_path / 'published.pth'))
    assert size_of(preparation(cfg)) == (224, 224)
    assert len(class_names(cfg, deployed(model), meta)['classes']) == 1000
    dataset = dict(cfg.test_dataloader.dataset, metainfo=dict(classes=('a', 'b')))
    cfg.test_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=dataset)
    with pytest.raises(ExportError, match='1000 classes, but 2 names'):
        class_names(cfg, deployed(model), meta)


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('fpn_atmnet_xt_demo', dict(test_cfg=dict(mode='slide', stride=9)), 'whole images'),
        ('fpn_atmnet_xt_demo', dict(decode_head=dict(type='FCNHead')), 'FCNHead is not exported'),
        ('fpn_atmnet_xt_demo', dict(decode_head=dict(num_classes=1)), 'two or more classes'),
        ('faster', {'rpn_head.bbox_coder.add_ctr_clamp': True}, 'boxes of DeltaXYWHBBoxCoder'),
        ('retinanet_atmnet_xt_demo', {'bbox_head.loss_cls': SOFTMAX}, 'has softmax'),
        ('faster', {'roi_head.bbox_roi_extractor.type': 'GenericRoIExtractor'}, 'GenericRoI'),
        ('mask_rcnn_atmnet_xt_demo', {'roi_head.mask_head.type': 'CoarseMaskHead'}, 'CoarseMask'),
        ('retinanet_atmnet_xt_demo', dict(type='FCOS'), 'FCOS is not exported'),
        (
            'retinanet_atmnet_xt_demo',
            dict(test_cfg=dict(nms=dict(type='soft_nms'))),
            'only plain NMS',
        ),
        (
            'fpn_atmnet_xt_demo',
            dict(data_preprocessor=dict(test_cfg=dict(size_divisor=32))),
            'pads images',
        ),
    ],
)
def test_what_is_not_supported_is_refused(name, change, message):
    cfg = config(name)
    cfg.merge_from_dict({f'model.{key}': value for key, value in change.items()})
    if message.startswith('FCNHead'):
        cfg.model.decode_head.pop('feature_strides')
        cfg.model.decode_head.update(in_channels=64, in_index=0)
    if change.get('type') == 'FCOS':
        cfg.model.bbox_head = dict(type='FCOSHead', num_classes=4, in_channels=64)
    with pytest.raises(ExportError, match=message):
        deployed(MODELS.build(cfg.model))


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('dino_atmnet_xt', 'a DINO is not exported; supported are'),
        ('mask2former_panoptic_atmnet_xt', 'a Mask2Former is not exported; supported are'),
        ('mask2former_semantic_atmnet_xt', 'decode_head Mask2FormerHead is not exported'),
    ],
)
def test_transformers_are_refused(name, message):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    cfg = Config.fromfile(find_config(name))
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    with pytest.raises(ExportError, match=message):
        deployed(model)


def test_a_pipeline_that_the_demo_cannot_follow_is_refused():
    cfg = config('fpn_atmnet_xt_demo')
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='RandomFlip', prob=1.0))
    with pytest.raises(ExportError, match='RandomFlip'):
        preparation(cfg)
    cfg.test_dataloader = None
    with pytest.raises(ExportError, match=r'no test_dataloader.dataset.pipeline'):
        preparation(cfg)


def test_types_in_a_pipeline_may_be_classes_or_have_a_scope():
    from mmcv.transforms import CenterCrop

    pipeline = [dict(type='mmseg.LoadImageFromFile'), dict(type=CenterCrop, crop_size=9)]
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    assert preparation(cfg) == [dict(type='CenterCrop', crop_size=9)]
    assert size_of(preparation(cfg)) == (9, 9)


def test_an_opset_too_old_is_refused(exported, tmp_path):
    cfg, model, _ = exported('fpn_atmnet_xt_demo')
    with pytest.raises(ExportError, match='the opset must be 17 to 20, but is 11'):
        export(cfg, model, tmp_path / 'a.onnx', opset=11)


def test_openvino_agrees(exported):
    openvino = pytest.importorskip('openvino')
    for name in ('fpn_atmnet_xt_demo', 'retinanet_atmnet_xt_demo'):
        _, model, path = exported(name)
        image, size = noise(61, 83, seed=1), (90, 120)
        compiled = openvino.Core().compile_model(
            path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
        )
        inputs = dict(image=image.numpy(), size=np.array(size))
        result = compiled({name: inputs[name] for name in model.inputs})
        found = {n: torch.from_numpy(np.array(result[n])) for n in model.outputs}
        assert not exceeded(model, differences(found, predict(model, image, size))), name
