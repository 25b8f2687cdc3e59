"""The small heads of tools/overfit.py: they build, and transformers resume bit for bit."""

import overfit
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, init_default_scope

from commands import run, scalars
from mmatm.checkpoints import read_checkpoint
from mmatm.cli.arguments import make_runner
from reference import identical

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
WIDTHS = [32, 64, 96, 128]
ARCH = dict(
    depths=(2, 2, 2, 2), widths=WIDTHS, mlp_ratios=(2, 2, 2, 2), shares=(2, 4, 4, 8), interval=2
)
TRANSFORMERS = ['dino_atmnet_xt', 'mask2former_panoptic_atmnet_xt']


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours may catch it."""


@HOOKS.register_module()
class StopAtStep(Hook):
    """Ends a run like a kill."""

    priority = 'LOWEST'  # after a checkpoint was written

    def __init__(self, step):
        self.step = step

    def after_train_iter(self, runner, *_, **__):
        if runner.iter + 1 == self.step:
            raise Killed


@pytest.mark.parametrize('name', list(overfit.HEADS))
def test_heads_are_small(name, tmp_path):
    cfg = overfit.settings(name, tmp_path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) < 22e6
    assert cfg.custom_hooks[-1].monitor == overfit.HEADS[name][0][0]


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_killed_training_of_transformers_ends_alike(name, demo_data, tmp_path, monkeypatch):
    """Noisy queries and random points are drawn as in the run that was not killed."""
    if 'panoptic' in name:
        pytest.importorskip('panopticapi', reason='docs/data.md tells how to install it')
    monkeypatch.setattr(overfit, 'SIZE', 64)
    runs = iter(range(9))

    def train(folder, stop=None, **changes):
        cfg = overfit.settings(name, demo_data, 10)
        cfg.merge_from_dict(dict(train_cfg=dict(max_iters=3, val_interval=9), **changes))
        cfg.default_hooks.checkpoint.update(interval=1)
        cfg.model.backbone.update(arch=ARCH, drop_path_rate=0.3)
        if name == 'dino_atmnet_xt':
            cfg.model.neck.in_channels = WIDTHS[1:]
            cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 1
        else:
            cfg.model.panoptic_head.in_channels = WIDTHS
        cfg.train_dataloader.batch_size = 2
        cfg.work_dir, cfg.experiment_name = str(tmp_path / folder), f'{name}{next(runs)}'
        cfg.launcher = 'none'
        cfg.visualizer.update(name=cfg.experiment_name, vis_backends=[])
        cfg.custom_hooks.append(dict(type='StopAtStep', step=stop or 0))
        make_runner(cfg).train()

    train('whole')
    with pytest.raises(Killed):
        train('killed', stop=2)
    train('killed', resume=True)
    one, other = (read_checkpoint(tmp_path / each / 'iter_3.pth') for each in ('whole', 'killed'))
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert identical(one[key], other[key]), key


def test_a_head_that_misses_its_target_is_an_error(tmp_path, monkeypatch, capsys):
    def run_tool(command, *arguments):
        run('mmatm', command, *arguments)
        return 0

    monkeypatch.setattr(overfit, 'run_tool', run_tool)
    words = 'fpn_atmnet_xt', '--steps', '10', '--work-dir', str(tmp_path)
    monkeypatch.setattr('sys.argv', ['overfit.py', *words])
    with pytest.raises(SystemExit, match='these missed their targets: fpn_atmnet_xt'):
        overfit.main()
    printed = capsys.readouterr().out
    assert '| fpn_atmnet_xt | mIoU | 90.0 | ' in printed
    assert scalars(tmp_path / 'fpn_atmnet_xt')[-1]['step'] == 10


def test_unknown_heads_are_rejected(tmp_path):
    printed = run('tools/overfit.py', 'fpn', '--work-dir', tmp_path, code=2)
    assert 'HEAD must be one of' in printed
    assert 'but is fpn' in printed
    assert not list(tmp_path.iterdir())
