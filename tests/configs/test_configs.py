"""Every config of the zoo builds, learns and predicts on small pictures."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

from mmatm.engine import CpuAmpOptimWrapper

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

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
SEGMENTATION = [f'{head}_atmnet_{arch}' for head in ('upernet', 'fpn') for arch in ARCHS]
FILES = {name: CONFIGS / 'detection' / f'{name}.py' for name in DETECTION}
FILES |= {name: CONFIGS / 'segmentation' / f'{name}.py' for name in SEGMENTATION}


def build(name):
    cfg = Config.fromfile(FILES[name])
    init_default_scope(cfg.default_scope)
    if name in SEGMENTATION:
        cfg.model.data_preprocessor.size = (64, 64)  # or the pictures are padded to 512
    # Fewer regions and a narrower head, for speed: bfloat16 is a hundred times slower than float32
    # where the processor lacks it.
    if 'rcnn' in name:
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 4
        cfg.model.test_cfg.rpn.max_per_img = 8
    if 'upernet' in name:
        cfg.model.decode_head.channels = 64
    torch.manual_seed(0)
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def pictures(name, size=64):
    """Two small pictures with their annotations, as a data loader would give them."""
    classes = 80 if name in DETECTION else 150
    if name in DETECTION:
        from mmdet.testing import demo_mm_inputs

        mask = 'mask' in name
        return demo_mm_inputs(
            2, [[3, size, size]] * 2, num_items=[2, 2], num_classes=classes, with_mask=mask
        )
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    meta = dict(ori_shape=(size, size), img_shape=(size, size), pad_shape=(size, size))
    samples = []
    for _ in range(2):
        labels = torch.randint(0, classes, (1, size, size), generator=generator)
        samples.append(SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels)))
    image = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
    return dict(inputs=[image, image.flip(-1)], data_samples=samples)


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


@pytest.mark.parametrize('name', list(FILES))
def test_learns_and_predicts(name):
    model = build(name)
    inputs = pictures(name)

    loss = loss_of(model.train(), inputs)
    loss.backward()
    assert math.isfinite(loss)
    # DistributedDataParallel stops at the second step if a parameter got no gradient.
    assert not without_gradient(model)
    for sample in predictions_of(model, inputs):
        if name in SEGMENTATION:
            assert sample.pred_sem_seg.data.shape == (1, 64, 64)
            assert sample.seg_logits.data.shape == (150, 64, 64)
        else:
            assert sample.pred_instances.bboxes.shape[1] == 4
            assert ('masks' in sample.pred_instances) == ('mask_rcnn' in name)

    # Mixed precision on a CPU, with recomputation of the blocks.
    small = pictures(name, 48 if name in DETECTION else 32)  # below 48 no anchor fits inside
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

    # The stem and the first two stages frozen.
    model.zero_grad()
    model.backbone.frozen_stages = 2
    loss_of(model.train(), inputs).backward()
    trained = {n.split('.')[1] for n, p in model.backbone.named_parameters() if p.grad is not None}
    frozen = [n for n, p in model.backbone.named_parameters() if not p.requires_grad]
    assert {n for n in frozen if n.startswith(('stem.', 'stages.0.', 'stages.1.'))} == {
        n for n, _ in model.backbone.named_parameters()
        if n.startswith(('stem.', 'stages.0.', 'stages.1.'))
    }  # fmt: skip
    assert {'2', '3'} <= trained
    assert not without_gradient(model)


@pytest.mark.parametrize('arch', ARCHS)
def test_longer_schedule_has_the_same_model(arch):
    short = Config.fromfile(FILES[f'mask_rcnn_atmnet_{arch}'])
    long = Config.fromfile(CONFIGS / 'detection' / f'mask_rcnn_atmnet_{arch}_ms_3x.py')
    assert long.model == short.model
    assert long.train_cfg.max_epochs == 3 * short.train_cfg.max_epochs


@pytest.mark.parametrize('name', ['mask_rcnn_atmnet_t', 'cascade_mask_rcnn_atmnet_t_ms_3x'])
def test_detection_recipe(name):
    cfg = Config.fromfile(FILES[name])
    epochs = 36 if '3x' in name else 12
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.param_scheduler[-1]['end'] == epochs
    assert cfg.param_scheduler[-1]['milestones'] == ([27, 33] if '3x' in name else [8, 11])
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05
    )
    resize = [t for t in cfg.train_dataloader.dataset.pipeline if 'Resize' in t['type']]
    if '3x' in name:
        assert [min(s) for s in resize[0]['scales']] == list(range(480, 801, 32))
    else:
        assert resize[0]['scale'] == (1333, 800)


def test_retinanet_recipe():
    cfg = Config.fromfile(FILES['retinanet_atmnet_t'])
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4


def test_segmentation_recipes():
    cfg = Config.fromfile(FILES['upernet_atmnet_l'])
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.model.backbone.drop_path_rate == 0.2
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01
    )
    warmup, decay = cfg.param_scheduler
    assert (warmup['start_factor'], warmup['end']) == (1e-6, 1500)
    assert (decay['power'], decay['eta_min'], decay['end']) == (1.0, 0.0, 160000)
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 16

    cfg = Config.fromfile(FILES['fpn_atmnet_t'])
    assert cfg.train_cfg.max_iters == 40000
    assert cfg.optim_wrapper.optimizer.lr == 2e-4
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 32


@pytest.mark.parametrize('name', ['mask_rcnn_atmnet_xt', 'upernet_atmnet_xt'])
def test_weight_decay(name):
    model = build(name)
    cfg = Config.fromfile(FILES[name])
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decayed = {id(p) for g in optimizer.param_groups if g['weight_decay'] for p in g['params']}
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm))
        for p in m.parameters()
    }
    for parameter_name, parameter in model.named_parameters():
        exempt = id(parameter) in norms
        if name == 'mask_rcnn_atmnet_xt':  # as in the paper's ImageNet training
            exempt |= parameter_name.endswith('bias') or '.peg.' in parameter_name
        assert (id(parameter) in decayed) != exempt, parameter_name
