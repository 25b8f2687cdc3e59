#!/usr/bin/env python
"""Write a report of a training run, one HTML file: python tools/report.py WORK_DIR

Evaluates the best checkpoint in WORK_DIR, else the last one, on the test set of its config. Works
with detectors, segmentors and classifiers of any mm config.
"""

import argparse
import sys
from pathlib import Path

from mmatm.cli.arguments import (
    add_config_options,
    add_trust_flag,
    check_checkpoint,
    check_data,
    explained_errors,
    read_config,
    require_writable,
)
from mmatm.cli.numbers import at_least
from mmatm.report.history import read_history
from mmatm.report.work_dir import ReportError, find_checkpoint, find_config
from mmatm.utils.files import write_atomically


@explained_errors()
def main() -> None:
    first, _, rest = (__doc__ or '').partition('\n')
    parser = argparse.ArgumentParser(description=first.split(': ')[0], epilog=rest)
    parser.add_argument('work_dir', type=Path, help='folder that training wrote to')
    parser.add_argument(
        '--checkpoint', help='checkpoint file; ema:FILE for the EMA weights in it (default: the '
        'best one in WORK_DIR, else the last one)',
    )  # fmt: skip
    parser.add_argument('--out', type=Path, help='file to write (default: WORK_DIR/report.html)')
    parser.add_argument('--force', action='store_true', help='replace the file if it exists')
    parser.add_argument(
        '--max-images',
        type=at_least(2),
        default=24,
        help='test images to show (default: 24)',
    )
    add_config_options(parser)
    add_trust_flag(parser)
    args = parser.parse_args()
    out = args.out or args.work_dir / 'report.html'
    if not args.work_dir.is_dir():
        sys.exit(f'the work directory {args.work_dir} does not exist')
    if out.is_dir():
        sys.exit(f'--out must be a file, but {out} is a folder')
    if out.exists() and not args.force:
        sys.exit(f'{out} exists; pass --force to replace it')
    require_writable(out.parent)
    try:
        name, config = find_config(args.work_dir, read_history(args.work_dir).runs)
        checkpoint = args.checkpoint or str(find_checkpoint(args.work_dir))
        check_checkpoint(checkpoint)
        cfg = read_config(str(config), args.cfg_options)
        check_data(cfg, 'test_dataloader', classes=False)

        from mmatm.report.page import build_page  # imports torch and the mm packages

        page = build_page(cfg, args.work_dir, name, config, checkpoint, args.max_images)
    except ReportError as error:
        sys.exit(str(error))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode())
    print(f'{out.stat().st_size / 1e6:.1f} MB: {out.resolve()}')


if __name__ == '__main__':
    main()
