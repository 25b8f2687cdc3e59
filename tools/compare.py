#!/usr/bin/env python
"""Compare backbones on the demo data: python tools/compare.py

Trains Mask R-CNN and Semantic FPN of the demos from scratch with ATMNet-xt and -t and with mm's own
ResNet-50, Swin-T and ConvNeXt-T, with equal heads and steps, and draws AP and mIoU over steps and
over seconds. A run that is complete is not repeated. All ten take up to 90 minutes on 2 cores.
"""

import argparse
import sys
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib
from mmengine.config import Config

from mmatm.cli.arguments import read_config, run_tool
from mmatm.cli.numbers import at_least
from mmatm.report.history import History, read_history

matplotlib.use('Agg')
from matplotlib import pyplot as plt

HEADS = {  # configs, the heads' names, the metrics and theirs
    'mask_rcnn_atmnet_xt_demo': ('Mask R-CNN', 'coco/segm_mAP', 'mask AP'),
    'fpn_atmnet_xt_demo': ('Semantic FPN', 'mIoU', 'mIoU (%)'),
}
# As in the demos, the last stage is left out. Each backbone is initialized as mm does.
ATMNET = [64, 128, 320]
NARROW = [96, 192, 384]
BACKBONES: dict[str, tuple[dict[str, Any], list[int]]] = {
    'ATMNet-xt': (dict(arch='xt'), ATMNET),
    'ATMNet-t': (dict(arch='t'), ATMNET),
    'ResNet-50': (
        dict(_delete_=True, type='ResNet', depth=50, num_stages=3, strides=(1, 2, 2),
             dilations=(1, 1, 1), out_indices=(0, 1, 2)),
        [256, 512, 1024],
    ),
    'Swin-T': (
        dict(_delete_=True, type='SwinTransformer', depths=(2, 2, 6), num_heads=(3, 6, 12),
             strides=(4, 2, 2), out_indices=(0, 1, 2), drop_path_rate=0.0),
        NARROW,
    ),
    'ConvNeXt-T': (
        dict(_delete_=True, type='mmpretrain.ConvNeXt',
             arch=dict(depths=[3, 3, 9], channels=NARROW), out_indices=(0, 1, 2),
             gap_before_final_norm=False),
        NARROW,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split(': ')[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare'))
    parser.add_argument('--steps', type=at_least(10), default=1000, help='steps of each run')
    parser.add_argument('--evaluations', type=int, default=8, help='evaluations of each run')
    parser.add_argument('--data', type=Path, default=Path('data/demo'))
    args = parser.parse_args()
    if not 1 <= args.evaluations <= args.steps:
        parser.error(f'--evaluations must be 1 to {args.steps}, but is {args.evaluations}')

    if find_spec('mmpretrain') is None:
        sys.exit(
            'ConvNeXt comes from mmpretrain, which is not installed: run "pip install '
            'onedl-mmpretrain" (next to OpenMMLab\'s own releases: "pip install mmpretrain")'
        )

    if not args.data.exists() and (status := run_tool('make_demo_data', '--out', args.data)):
        sys.exit(status)
    histories: dict[str, dict[str, History]] = {}
    for head, (_, metric, _) in HEADS.items():
        for backbone in BACKBONES:
            work_dir = args.work_dir / head / backbone
            if not complete(work_dir, metric, args.steps):
                work_dir.mkdir(parents=True, exist_ok=True)
                config = work_dir / f'{head}.py'
                settings(head, backbone, args).dump(config)
                if status := run_tool('train', config, '--work-dir', work_dir):
                    sys.exit(status)
            histories.setdefault(head, {})[backbone] = read_history(work_dir)
    print(draw(histories, args.work_dir / 'curves.png'))


def settings(head: str, backbone: str, args: argparse.Namespace) -> Config:
    """The demo config of a head with another backbone."""
    cfg = read_config(head)
    settings, channels = BACKBONES[backbone]
    model = dict(backbone=dict(settings), neck=dict(in_channels=channels))
    interval = args.steps // args.evaluations
    cfg.merge_from_dict(
        dict(
            model=model,
            default_hooks=dict(
                logger=dict(interval=10, log_metric_by_epoch=False),
                checkpoint=dict(by_epoch=False, interval=args.steps, save_last=False),
            ),
            log_processor=dict(by_epoch=False),
        )
    )
    if 'mmpretrain' in cfg.model.backbone.type:
        cfg.custom_imports.imports = [*cfg.custom_imports.imports, 'mmpretrain.models']
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=args.steps, val_interval=interval)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    warm = min(100, args.steps // 2)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=warm, end=args.steps),
    ]
    # The learning rate and clipping of the detector's demo suit all backbones.
    cfg.optim_wrapper.optimizer.lr = 1e-3
    coco, scenes = f'{args.data}/coco/', f'{args.data}/ade20k'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = scenes if cfg.default_scope == 'mmseg' else coco
    if cfg.default_scope == 'mmdet':
        cfg.val_evaluator.ann_file = f'{coco}annotations/instances_val2017.json'
        cfg.test_evaluator = cfg.val_evaluator
    return cfg


def complete(work_dir: Path, metric: str, steps: int) -> bool:
    """Whether the run in ``work_dir`` was evaluated at its end."""
    return steps in read_history(work_dir).metrics.get(metric, {})


def curve(history: History, metric: str) -> tuple[list[int], list[float], list[float]]:
    """Steps, seconds of training until then, and values of a metric."""
    times = history.train['time']  # seconds per step, at every logged step
    logged = sorted(times)
    lengths = [step - before for before, step in zip([0, *logged], logged, strict=False)]
    spent = accumulate(times[step] * n for step, n in zip(logged, lengths, strict=True))
    until = dict(zip(logged, spent, strict=True))
    found = history.metrics.get(metric, {})  # none while a detector finds nothing
    steps = sorted(found)
    seconds = [max((s for at, s in until.items() if at <= step), default=0.0) for step in steps]
    return steps, seconds, [found[step] for step in steps]


def draw(histories: dict[str, dict[str, History]], out: Path) -> str:
    """Draw all curves; return a Markdown table of how they end."""
    figure, axes = plt.subplots(
        len(histories), 2, figsize=(10, 3.5 * len(histories)), squeeze=False, layout='constrained'
    )
    lines = [
        '| head | backbone | metric | at the end | seconds per step |',
        '|---|---|---|---|---|',
    ]
    for (head, runs), row in zip(histories.items(), axes, strict=True):
        name, metric, unit = HEADS[head]
        for backbone, history in runs.items():
            steps, seconds, values = curve(history, metric)
            for axis, x in zip(row, (steps, seconds), strict=True):
                axis.plot(x, values, marker='.', label=backbone)
            end, pace = '-', '-'
            if values:
                end, pace = f'{values[-1]:.3f}', f'{seconds[-1] / steps[-1]:.3f}'
            lines.append(f'| {name} | {backbone} | {unit} | {end} | {pace} |')
        for axis, label in zip(row, ('step', 'seconds of training'), strict=True):
            axis.set(title=name, xlabel=label, ylabel=unit)
            axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=5)
    figure.savefig(out, dpi=100)
    plt.close(figure)
    return '\n'.join([*lines, f'curves: {out}'])


if __name__ == '__main__':
    main()
