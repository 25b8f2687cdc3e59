"""The configs that docs/training.md shows, run on the demo data."""

import re

import pytest
import torch
from mmengine.config import Config

from commands import ROOT, derive, run

pytest.importorskip('mmdet')
BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'training.md').read_text(), re.S)


def test_config_for_own_data(demo_data, detector, tmp_path):
    own, *_ = BLOCKS
    base, rest = own.split('\n', 1)
    assert base == "_base_ = './mask_rcnn_atmnet_t.py'"
    assert len(own.splitlines()) <= 12
    rest = rest.replace('data/demo/', f'{demo_data}/')
    config = derive('configs/detection/mask_rcnn_atmnet_t.py', rest, tmp_path / 'mine.py')
    run(
        'tools/train.py', config, '--work-dir', tmp_path, '--cfg-options',
        f'load_from={detector / "epoch_1.pth"}',  # other widths: every shape that fits is loaded
        *(f'{s}_dataloader.num_workers=0' for s in ('train', 'val')),
        *(f'{s}_dataloader.persistent_workers=False' for s in ('train', 'val')),
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        'model.backbone.arch=xt', 'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=4',
    )  # fmt: skip
    trained = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert trained['meta']['dataset_meta']['classes'] == ('circle', 'triangle', 'square', 'star')
    assert trained['state_dict']['roi_head.mask_head.conv_logits.weight'].shape[0] == 4


@pytest.mark.parametrize('block', BLOCKS[1:])
def test_other_blocks_are_configs(block, tmp_path):
    cfg = Config.fromfile(
        derive('configs/detection/mask_rcnn_atmnet_t.py', block, tmp_path / 'mine.py')
    )
    assert cfg.model.backbone.type == 'ATMNet'
