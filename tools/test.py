#!/usr/bin/env python
"""Evaluate a detector, a segmentor or a classifier: python tools/test.py CONFIG CHECKPOINT"""

import sys
from argparse import Namespace
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import DumpResults

from mmatm.checkpoints.loading import load_whole_model
from mmatm.cli.arguments import (
    check_checkpoint,
    check_data,
    explained_errors,
    leave_process_group,
    load_config,
    make_parser,
    make_runner,
    require_writable,
)
from mmatm.cli.robustness import SEVERITIES, corruptions, evaluate
from mmatm.data import datasets, metrics

PICKLES = ('.pkl', '.pickle')
KINDS = {'mmdet': 'detector', 'mmpretrain': 'classifier'}  # their predictions are one .pkl file


@explained_errors()
def main() -> None:
    parser = make_parser('Evaluate a detector, a segmentor or a classifier')
    parser.add_argument('checkpoint', help='checkpoint file; ema:FILE for the EMA weights in it')
    parser.add_argument(
        '--out',
        help='detection, classification: a .pkl file for the predictions; segmentation: a folder '
        'for label maps',
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='folder for images with predictions; those of a segmentor are in vis_data/vis_image',
    )
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a window is shown')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation (default: flips)'
    )
    parser.add_argument(
        '--corruptions',
        nargs='*',
        metavar='NAME',
        help='evaluate on corrupted images: names or groups of corruptions (default: benchmark)',
    )
    parser.add_argument(
        '--severities', type=int, nargs='+', metavar='1..5', choices=SEVERITIES,
        help='severities of the corruptions (default: all)',
    )  # fmt: skip
    args = parser.parse_args()
    if args.severities and args.corruptions is None:
        parser.error('--severities needs --corruptions')
    if args.corruptions is not None:
        if args.out or args.show or args.show_dir:
            parser.error('--corruptions cannot be combined with --out, --show or --show-dir')
        try:
            names = corruptions(args.corruptions or ['benchmark'])
        except ValueError as error:
            parser.error(f'--corruptions: {error}')

    cfg = load_config(args, 'test_dataloader', 'test_evaluator')
    scope = cfg.get('default_scope')
    if args.out and scope in KINDS and not args.out.endswith(PICKLES):
        sys.exit(f'--out must be a .pkl file for a {KINDS[scope]}, but is {args.out}')
    if args.out and scope == 'mmseg' and args.out.endswith(PICKLES):
        sys.exit(f'--out must be a folder for a segmentor, but is {args.out}')
    require_writable(*(Path(place).parent for place in (args.out, args.show_dir) if place))
    check_data(cfg, 'test_dataloader', classes=False)
    check_checkpoint(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False  # a resumed run's config would resume
    if args.show or args.show_dir:
        show(cfg, args)
    if args.tta:
        use_tta(cfg)
    if args.corruptions is not None:
        evaluate(cfg, names, args.severities or list(SEVERITIES))
        leave_process_group()
        return
    if args.out and scope == 'mmseg':
        found = metrics(cfg, 'test_evaluator')
        metric = next((m for m in found if m.type == 'IoUMetric'), found[0])
        metric.update(output_dir=args.out, keep_results=True)

    runner = make_runner(cfg)
    dataset = runner.test_dataloader.dataset
    if args.out and scope == 'mmseg' and (clash := same_file(dataset, f'--out {args.out}', '.png')):
        sys.exit(clash)
    # Folders per class often repeat names, so drawings alone are no reason to stop.
    if args.show_dir and scope in KINDS and (clash := same_file(dataset, '--show-dir')):
        print(f'warning: {clash}', file=sys.stderr)
    if args.out and scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    elif args.out and scope == 'mmpretrain':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    load_whole_model(runner.model, args.checkpoint)  # the runner accepts any
    runner.test()
    del runner
    leave_process_group()


def same_file(dataset: Any, option: str, suffix: str = '') -> str | None:
    """A sentence if mm writes the results of two images to the same file."""
    names: dict[str, str] = {}
    for index in range(len(dataset)):
        if not (image := dataset.get_data_info(index).get('img_path')):
            continue  # CIFAR has no files
        name = Path(image).stem + suffix if suffix else Path(image).name
        other = names.setdefault(name, image)
        if other != image:
            return (
                f'{option}: the results of {other} and {image} are the same file, {name}; '
                '"mmatm predict" keeps folders'
            )
    return None


def show(cfg: Config, args: Namespace) -> None:
    """Draw predictions in a window or to a folder."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        sys.exit('--show and --show-dir need default_hooks.visualization, which the config lacks')
    hook.update(show=args.show, wait_time=args.wait_time, interval=1)
    if cfg.default_scope == 'mmpretrain':
        hook.update(enable=True, out_dir=args.show_dir)
        return
    hook.draw = True
    if args.show_dir and cfg.default_scope == 'mmdet':
        hook.test_out_dir = str(Path(args.show_dir).resolve())  # or it is below the work directory
    elif args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def use_tta(cfg: Config) -> None:
    """Wrap the model and the test pipeline for test-time augmentation.

    Configs without ``tta_model`` get horizontal flips. mmpretrain averages the scores, mmseg the
    logits. mmdet merges only boxes, so the mask head is removed and masks are not evaluated.
    """
    if cfg.model.type == 'Mask2Former':
        sys.exit('--tta: mmdet merges boxes only, but Mask2Former predicts masks')
    test_sets = list(datasets(cfg.test_dataloader.dataset))
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        *steps, pack = deepcopy(test_sets[0].pipeline)
        last = [pack]
        if cfg.default_scope == 'mmdet':
            cfg.tta_model = dict(
                type='DetTTAModel',
                tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
            )
            if 'meta_keys' in pack:
                pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
        elif cfg.default_scope == 'mmpretrain':
            cfg.tta_model = dict(type='AverageClsScoreTTA')
            cfg.test_dataloader.collate_fn = dict(type='pseudo_collate')
        else:
            cfg.tta_model = dict(type='SegTTAModel')
            # Flipped predictions are flipped back, but label maps are not: read them afterwards.
            last = [step for step in steps if step.type == 'LoadAnnotations'] + last
            steps = [step for step in steps if step not in last]
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        augment = dict(type='TestTimeAug', transforms=[flips, *([step] for step in last)])
        cfg.tta_pipeline = [*steps, augment]
    roi_head = cfg.model.get('roi_head', {})
    if cfg.tta_model.type == 'DetTTAModel' and roi_head.get('mask_head'):
        print('--tta: mmdet merges boxes only, so masks are neither predicted nor evaluated')
        roi_head.update(mask_head=None, mask_roi_extractor=None)
        for metric in metrics(cfg, 'test_evaluator'):
            if 'segm' in metric.get('metric', ''):
                metric.update(metric='bbox')
    for dataset in test_sets:
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    # EMAHook's copy of the wrapped model would not find its weights; state_dict holds them.
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if hook.type != 'EMAHook']


if __name__ == '__main__':
    main()
