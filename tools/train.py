#!/usr/bin/env python
"""Train a detector, a segmentor or a classifier: python tools/train.py CONFIG"""

import shlex
import sys
from pathlib import Path

from mmatm.cli.arguments import (
    check_checkpoint,
    check_data,
    check_optimizer,
    check_schedule,
    explained_errors,
    leave_process_group,
    load_config,
    make_parser,
    make_runner,
)
from mmatm.cli.pretrained import add_pretrained_option, use_pretrained, warn_if_random
from mmatm.engine.amp import use_mixed_precision


@explained_errors()
def main() -> None:
    parser = make_parser('Train a detector, a segmentor or a classifier')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the total batch size over auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or from the newest one in the work directory',
    )
    parser.add_argument(
        '--continue',
        action='store_true',
        dest='go_on',
        help='like --resume if the work directory has a checkpoint; if it has none, start',
    )
    add_pretrained_option(parser)
    args = parser.parse_args()

    cfg = load_config(args, 'train_dataloader', 'train_cfg', 'optim_wrapper')
    if args.pretrained is not None:
        try:
            use_pretrained(cfg, args.pretrained)
        except (FileNotFoundError, ValueError) as error:
            sys.exit(str(error))
    check_data(cfg, 'train_dataloader', 'val_dataloader')
    check_optimizer(cfg)
    check_schedule(cfg)
    if args.amp:
        use_mixed_precision(cfg.optim_wrapper)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            sys.exit(f'--auto-scale-lr: {args.config} sets no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    started = has_checkpoint(Path(cfg.work_dir))
    if args.go_on and started:
        if args.resume not in (None, 'auto'):
            print(f'{cfg.work_dir} holds a checkpoint, which is continued from, not {args.resume}')
        args.resume = 'auto'
    if started and args.resume is None and not cfg.get('resume'):
        print(f'{cfg.work_dir} holds checkpoints of an earlier run, which this one may replace')
    if args.resume == 'auto' and not started:
        print(f'--resume: {cfg.work_dir} holds no checkpoint, so training starts anew')
        args.resume = None  # load_from of the config counts
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if cfg.get('load_from'):
        check_checkpoint(cfg.load_from)
    warn_if_random(cfg)
    try:
        make_runner(cfg).train()
    except KeyboardInterrupt:
        if has_checkpoint(Path(cfg.work_dir)):
            words = ['mmatm', 'train', args.config, '--work-dir', cfg.work_dir, '--resume']
            print(f'interrupted; go on with: {shlex.join(words)}', file=sys.stderr)
        else:
            print('interrupted before the first checkpoint', file=sys.stderr)
        sys.exit(130)
    leave_process_group()


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has saved one, even if it was killed before it wrote which is the last."""
    names = ('last_checkpoint', 'epoch_*.pth', 'iter_*.pth')
    return any(any(folder.glob(name)) for name in names)


if __name__ == '__main__':
    main()
