"""The ImageNet configs: models, recipe, one step of training and a prediction."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope

pytest.importorskip('mmpretrain')

CONFIGS = Path(__file__).parents[2] / 'configs' / 'classification'
DROP_PATH = {'xt': 0.1, 't': 0.1, 's': 0.1, 'b': 0.2, 'l': 0.2}
PARAMETERS = {'xt': 15349128, 't': 27152232, 's': 38631448, 'b': 52154792, 'l': 76238032}


def load(name):
    cfg = Config.fromfile(CONFIGS / f'atmnet_{name}_in1k.py')
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('arch', DROP_PATH)
def test_model(arch):
    cfg = load(arch)
    assert cfg.model.backbone.drop_path_rate == DROP_PATH[arch]
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]
    assert model.eval()(torch.zeros(1, 3, 64, 64, device='meta')).shape == (1, 1000)


def test_learns_and_predicts():
    from mmpretrain.structures import DataSample

    torch.manual_seed(0)
    model = MODELS.build(load('xt').model)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    loss, _ = model.parse_losses(model.train()(**data, mode='loss'))
    loss.backward()
    assert math.isfinite(loss)
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples))
    with torch.no_grad():
        predictions = model.eval()(**data, mode='predict')
    assert [p.pred_score.shape for p in predictions] == [(1000,)] * 2


def test_recipe():
    cfg = load('t')
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05
    )
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 1024
    warmup, cosine = cfg.param_scheduler
    assert (warmup['end'], cosine['begin'], cosine['end']) == (5, 5, 300)
    assert cosine['eta_min'] == 1e-5
    assert warmup['start_factor'] * cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-6)
    ema = HOOKS.build(cfg.custom_hooks[1])
    assert 1 - ema.ema_cfg['momentum'] == 0.99996
    assert [a['alpha'] for a in cfg.model.train_cfg.augments] == [0.8, 1.0]
    assert cfg.model.head.loss.label_smooth_val == 0.1
    transforms = {t['type']: t for t in cfg.train_dataloader.dataset.pipeline}
    assert transforms['RandAugment']['magnitude_level'] == 9
    assert transforms['RandomErasing']['erase_prob'] == 0.25
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'


def test_fine_tuning_at_384():
    cfg, base = load('l_384'), load('l')
    assert cfg.model == base.model
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1]['end'] == 30
    for loader, edge in [('train', 384), ('val', 438), ('test', 438)]:
        pipeline = cfg[f'{loader}_dataloader'].dataset.pipeline
        assert pipeline[1]['scale'] == edge
        assert len(pipeline) == len(base[f'{loader}_dataloader'].dataset.pipeline)
    assert pipeline[2]['crop_size'] == 384
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 512
    assert cfg.load_from == 'work_dirs/atmnet_l_in1k/epoch_300.pth'


def test_weight_decay():
    cfg = load('xt')
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decayed = {id(p) for g in optimizer.param_groups if g['weight_decay'] for p in g['params']}
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim == 1 or '.peg.' in name
        assert (id(parameter) in decayed) != exempt, name
