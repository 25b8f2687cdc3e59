"""All configs build, learn and predict on small images."""

import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

from mmatm.engine import CpuAmpOptimWrapper
from mmatm.engine.amp import boxes_in_float32
from narrow import narrow

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

CONFIGS = Path(__file__).parents[2] / 'configs'
ARCHS = ('xt', 't', 's', 'b', 'l')
DETECTION = [
    f'{head}_atmnet_{arch}{suffix}'
    for head, suffix in [
        ('mask_rcnn', ''),
        ('retinanet', ''),
        ('cascade_mask_rcnn', '_ms_3x'),
    ]
    for arch in ARCHS
]
DETECTION += [
    'faster_rcnn_atmnet_xt',
    'cascade_rcnn_atmnet_xt_ms_3x',
    'dino_atmnet_xt',
    'mask2former_atmnet_xt',
    'mask2former_panoptic_atmnet_xt',
]
SEGMENTATION = [f'{head}_atmnet_{arch}' for head in ('upernet', 'fpn') for arch in ARCHS]
SEGMENTATION += ['mask2former_semantic_atmnet_xt_640']
CLASSIFIER = 'atmnet_xt_in1k'
FILES = {name: CONFIGS / 'detection' / f'{name}.py' for name in DETECTION}
FILES |= {name: CONFIGS / 'segmentation' / f'{name}.py' for name in SEGMENTATION}
FILES[CLASSIFIER] = CONFIGS / 'classification' / f'{CLASSIFIER}.py'
# The sizes in between differ in their backbones only; test_model_index.py builds them all.
LEARNING = [name for name in FILES if re.search('_(xt|l)(_|$)', name)]


def build(name):
    cfg = Config.fromfile(FILES[name])
    init_default_scope(cfg.default_scope)
    if name in SEGMENTATION:
        cfg.model.data_preprocessor.size = (64, 64)  # or the images are padded to 512
    narrow(cfg)
    if 'rcnn' in name:  # fewer regions, also for speed
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 4
        cfg.model.test_cfg.rpn.max_per_img = 8
    # Fewer queries than tokens, fewer layers and fewer points, also for speed.
    if 'dino' in name:
        cfg.model.num_queries = 20
        cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 2
    if 'mask2former' in name:
        head = cfg.model.decode_head if name in SEGMENTATION else cfg.model.panoptic_head
        head.num_queries, head.transformer_decoder.num_layers = 20, 3
        head.pixel_decoder.encoder.num_layers = 2
        settings = head if name in SEGMENTATION else cfg.model
        settings.train_cfg.num_points = 64
        for augment in cfg.model.data_preprocessor.get('batch_augments', []):
            augment.size = (64, 64)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    if 'dino' in name:
        model.init_weights()  # until then mmdet leaves what the memory held in the level embedding
    return model


def images(name, size=64):
    """Two small images with their annotations, as from a data loader."""
    if name in DETECTION:
        from mmdet.testing import demo_mm_inputs

        inputs = demo_mm_inputs(
            2,
            [[3, size, size]] * 2,
            num_items=[2, 2],
            num_classes=80,
            with_mask='mask' in name,
            with_semantic='panoptic' in name,
        )
        for sample in inputs['data_samples'] if 'panoptic' in name else []:
            sample.gt_sem_seg.sem_seg.fill_(90)  # a class of background
        return inputs
    from mmpretrain.structures import DataSample
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
    inputs = torch.stack([image, image.flip(-1)])
    if name == CLASSIFIER:
        return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(i) for i in range(2)])
    meta = dict(ori_shape=(size, size), img_shape=(size, size), pad_shape=(size, size))
    labels = torch.randint(0, 150, (2, 1, size, size), generator=generator)
    samples = [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=each)) for each in labels]
    return dict(inputs=list(inputs), data_samples=samples)


def loss_of(model, inputs):
    data = model.data_preprocessor(inputs, training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    return loss


def predictions_of(model, inputs):
    data = model.data_preprocessor(inputs, training=False)
    with torch.no_grad():
        return model.eval()(**data, mode='predict')


def without_gradient(model):
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize('name', LEARNING)
def test_learns_and_predicts(name):
    model = build(name)
    inputs = images(name)

    loss = loss_of(model.train(), inputs)
    loss.backward()
    assert math.isfinite(loss)
    # DistributedDataParallel stops at the second step if a parameter got no gradient.
    assert not without_gradient(model)
    for sample in predictions_of(model, inputs):
        if name in SEGMENTATION:
            assert sample.pred_sem_seg.data.shape == (1, 64, 64)
            assert sample.seg_logits.data.shape == (150, 64, 64)
        elif name == CLASSIFIER:
            assert sample.pred_score.shape == (1000,)
        else:
            assert sample.pred_instances.bboxes.shape[1] == 4
            assert ('masks' in sample.pred_instances) == ('mask' in name)
            assert ('pred_panoptic_seg' in sample) == ('panoptic' in name)


@pytest.mark.parametrize('name', [*(n for n in FILES if '_xt' in n), 'fpn_atmnet_l'])
def test_mixed_precision_and_frozen_stages(name):
    """With all heads, and with the largest backbone."""
    model = build(name)
    # Mixed precision on a CPU, with recomputation of the blocks.
    small = images(name, 48 if name in DETECTION else 32)  # below 48 no anchor fits inside
    for stage in model.backbone.stages:
        stage.with_cp = True
    wrapper = CpuAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
    model.zero_grad()
    with wrapper.optim_context(model):
        loss = loss_of(model.train(), small)
    loss.backward()
    assert math.isfinite(loss)
    assert not without_gradient(model)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    with wrapper.optim_context(model):
        assert len(predictions_of(model, small)) == 2
    # As far as a CPU can tell: no value overflows in the range of float16.
    with boxes_in_float32(), torch.autocast('cpu', torch.float16):
        assert math.isfinite(loss_of(model.train(), small))

    # The stem and the first two stages frozen.
    model.zero_grad()
    model.backbone.frozen_stages = 2
    loss_of(model.train(), small).backward()
    trained = {n.split('.')[1] for n, p in model.backbone.named_parameters() if p.grad is not None}
    frozen = [n for n, p in model.backbone.named_parameters() if not p.requires_grad]
    first = ('stem.', 'stages.0.', 'stages.1.')
    assert {n for n, _ in model.backbone.named_parameters() if n.startswith(first)} <= set(frozen)
    assert {'2', '3'} <= trained
    assert not without_gradient(model)


@pytest.mark.parametrize(
    ('head', 'arch'), [('faster_rcnn', 'l'), *(('mask_rcnn', arch) for arch in ARCHS)]
)
def test_longer_schedule_has_the_same_model(head, arch):
    short, long = (
        Config.fromfile(CONFIGS / 'detection' / f'{head}_atmnet_{arch}{suffix}.py')
        for suffix in ('', '_ms_3x')
    )
    assert long.model == short.model
    assert long.train_cfg.max_epochs == 3 * short.train_cfg.max_epochs


@pytest.mark.parametrize('name', list(FILES))
def test_batch_size_of_the_recipe(name):
    """The base batch size is that of 8 GPUs, and a longer schedule ends with its last decay."""
    cfg = Config.fromfile(FILES[name])
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size
    loop, schedule = cfg.train_cfg, cfg.param_scheduler
    last = schedule[-1] if isinstance(schedule, list) else schedule
    assert last['end'] == loop.get('max_epochs', loop.get('max_iters'))


def test_fine_tuning_at_384():
    cfg, base = (
        Config.fromfile(CONFIGS / 'classification' / f'atmnet_{name}_in1k.py')
        for name in ('l_384', 'l')
    )
    assert cfg.model == base.model
    assert cfg.load_from == f'work_dirs/atmnet_l_in1k/epoch_{base.train_cfg.max_epochs}.pth'
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1]['end']
    for loader, edge in [('train', 384), ('val', 438), ('test', 438)]:
        pipeline = cfg[f'{loader}_dataloader'].dataset.pipeline
        assert pipeline[1]['scale'] == edge
        assert len(pipeline) == len(base[f'{loader}_dataloader'].dataset.pipeline)
    assert pipeline[2]['crop_size'] == 384


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn_atmnet_xt',
        'upernet_atmnet_xt',
        CLASSIFIER,
        'dino_atmnet_xt',
        'mask2former_panoptic_atmnet_xt',
        'mask2former_semantic_atmnet_xt_640',
    ],
)
def test_weight_decay_and_learning_rates(name):
    model = build(name)
    cfg = Config.fromfile(FILES[name])
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(
            m, (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.modules.batchnorm._BatchNorm)
        )
        for p in m.parameters()
    }
    transformer = 'dino' in name or 'mask2former' in name
    for parameter_name, parameter in model.named_parameters():
        group = groups[id(parameter)]
        exempt = id(parameter) in norms
        if name != 'upernet_atmnet_xt':
            exempt |= '.peg.' in parameter_name
        if transformer:
            exempt |= bool(re.search('(query|label|level)_(embed|feat)', parameter_name))
        elif name != 'upernet_atmnet_xt':  # as in the paper's ImageNet training
            exempt |= parameter_name.endswith('bias')
        assert bool(group['weight_decay']) != exempt, parameter_name
        slower = transformer and parameter_name.startswith('backbone.')
        expected = cfg.optim_wrapper.optimizer.lr * (0.1 if slower else 1)
        assert group['lr'] == pytest.approx(expected), parameter_name
