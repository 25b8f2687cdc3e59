#!/usr/bin/env python
"""Evaluate a detector or a segmentor: python tools/test.py CONFIG CHECKPOINT"""

import sys
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

import mmatm  # noqa: F401  registers ATMNet
from common import check_data, load_config, make_parser, metrics


def main() -> None:
    parser = make_parser('Evaluate a detector or a segmentor')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        help='detection: a .pkl file for the predictions; segmentation: a folder for label maps',
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='folder for pictures with predictions drawn in')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a window is shown')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    args = parser.parse_args()

    cfg = load_config(args)
    check_data(cfg, 'test_dataloader')
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        sys.exit(f'checkpoint {args.checkpoint} does not exist')
    cfg.load_from = args.checkpoint
    detection = cfg.get('default_scope') == 'mmdet'
    if args.out and detection and not args.out.endswith(('.pkl', '.pickle')):
        sys.exit(f'--out must be a .pkl file for a detector, but is {args.out}')

    if args.show or args.show_dir:
        hook = cfg.default_hooks.visualization
        hook.update(draw=True, show=args.show, wait_time=args.wait_time)
        if args.show_dir and detection:
            hook.test_out_dir = args.show_dir
        elif args.show_dir:
            cfg.visualizer.save_dir = args.show_dir
    if args.tta:
        use_tta(cfg)
    if args.out and not detection:
        cfg.test_evaluator.update(output_dir=args.out, keep_results=True)

    runner = Runner.from_cfg(cfg)
    if args.out and detection:
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()


def use_tta(cfg: Config) -> None:
    """Wrap the model and the test pipeline for test-time augmentation.

    A detection config without its own ``tta_model`` gets mmdet's with horizontal flips. That merges
    boxes only, so a mask head is left out and masks are not evaluated.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        if cfg.get('default_scope') != 'mmdet':
            sys.exit('--tta needs tta_model and tta_pipeline in the config')
        cfg.tta_model = dict(
            type='DetTTAModel',
            tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
        )
        pack = dict(dataset.pipeline[-1])
        pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        augment = dict(type='TestTimeAug', transforms=[flips, [pack]])
        cfg.tta_pipeline = [*deepcopy(dataset.pipeline[:-1]), augment]
    roi_head = cfg.model.get('roi_head', {})
    if cfg.tta_model.type == 'DetTTAModel' and roi_head.get('mask_head'):
        print('--tta: mmdet merges boxes only, so masks are neither predicted nor evaluated')
        roi_head.update(mask_head=None, mask_roi_extractor=None)
        for metric in metrics(cfg, 'test_evaluator'):
            metric.update(metric='bbox')
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)


if __name__ == '__main__':
    main()
