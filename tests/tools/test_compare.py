"""tools/compare.py: its models, and what it makes of their logs. It trains for over an hour."""

from argparse import Namespace
from pathlib import Path

import compare
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from mmatm.report.history import History

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
ARGS = Namespace(steps=40, evaluations=4, data=Path('data/demo'))


@pytest.mark.parametrize('backbone', compare.BACKBONES)
@pytest.mark.parametrize('head', compare.HEADS)
def test_models_differ_in_their_backbones_only(head, backbone):
    cfg, base = (compare.settings(head, name, ARGS) for name in (backbone, 'ATMNet-xt'))
    assert cfg.train_cfg == base.train_cfg == dict(base.train_cfg, max_iters=40, val_interval=10)
    assert cfg.optim_wrapper == base.optim_wrapper
    heads = [
        {k: v for k, v in c.model.items() if k not in ('backbone', 'neck')} for c in (cfg, base)
    ]
    assert heads[0] == heads[1]
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    levels = model.eval().extract_feat(torch.rand(1, 3, 64, 64))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (64, 64 // s, 64 // s) for s in (4, 8, 16)
    ]


def test_curves_and_table(tmp_path):
    def history(pace, last):
        times = {step: pace for step in (10, 20, 30, 40)}
        return History(train=dict(time=times), metrics=dict(mIoU={20: 1.0, 40: last}))

    runs = {'ATMNet-xt': history(0.1, 3.0), 'ResNet-50': history(0.2, 2.0)}
    assert compare.curve(runs['ResNet-50'], 'mIoU') == ([20, 40], [4.0, 8.0], [1.0, 2.0])
    runs['Swin-T'] = History(train=dict(time={10: 1.0}))  # not evaluated, or nothing was found
    printed = compare.draw({'fpn_atmnet_xt_demo': runs}, tmp_path / 'curves.png')
    assert '| Semantic FPN | ATMNet-xt | mIoU (%) | 3.000 | 0.100 |' in printed
    assert '| Semantic FPN | ResNet-50 | mIoU (%) | 2.000 | 0.200 |' in printed
    assert '| Semantic FPN | Swin-T | mIoU (%) | - | - |' in printed
    assert (tmp_path / 'curves.png').stat().st_size > 1000
    assert not compare.complete(tmp_path / 'none', 'mIoU', 40)
