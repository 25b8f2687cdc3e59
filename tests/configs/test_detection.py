"""The detection configs build, learn and predict on a small picture."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

mmdet = pytest.importorskip('mmdet')
from mmdet.registry import MODELS  # noqa: E402
from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402

CONFIGS = Path(__file__).parents[2] / 'configs' / 'detection'
ARCHS = ('xt', 't', 's', 'b', 'l')


@pytest.mark.parametrize('arch', ARCHS)
def test_mask_rcnn_learns_and_predicts(arch):
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIGS / f'mask_rcnn_atmnet_{arch}.py')
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    model.init_weights()
    inputs = demo_mm_inputs(1, [[3, 64, 64]], num_items=[2], num_classes=80, with_mask=True)

    data = model.data_preprocessor(inputs, training=True)
    losses = model.train()(**data, mode='loss')
    assert set(losses) == {
        'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'acc', 'loss_bbox', 'loss_mask'
    }  # fmt: skip
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert all(p.grad is not None for p in model.backbone.parameters())

    data = model.data_preprocessor(inputs, training=False)
    with torch.no_grad():
        (sample,) = model.eval()(**data, mode='predict')
    count = len(sample.pred_instances)
    assert sample.pred_instances.bboxes.shape == (count, 4)
    assert sample.pred_instances.masks.shape == (count, 64, 64)


def test_recipe():
    cfg = Config.fromfile(CONFIGS / 'mask_rcnn_atmnet_t.py')
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05
    )


def test_no_decay_on_norm_bias_and_peg():
    cfg = Config.fromfile(CONFIGS / 'mask_rcnn_atmnet_xt.py')
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decayed = {id(p) for g in optimizer.param_groups if g['weight_decay'] for p in g['params']}
    for name, parameter in model.named_parameters():
        exempt = name.endswith('bias') or '.peg.' in name or parameter.dim() == 1
        assert (id(parameter) in decayed) != exempt, name
