#!/usr/bin/env python
"""Train a demo config on a CPU in minutes, evaluate it, draw what it found: python tools/demo.py

First makes the data, shapes on photographs, in data/demo. Results go to work_dirs/CONFIG; open
report.html there.
"""

import argparse
import sys
from pathlib import Path

from mmatm.cli.arguments import read_config, run_tool
from mmatm.packaged import model_names

DEMOS = [name for name in model_names() if '_demo' in name]


def main() -> None:
    first, _, rest = (__doc__ or '').partition('\n')
    parser = argparse.ArgumentParser(description=first.split(': ')[0], epilog=rest)
    parser.add_argument(
        'config', nargs='?', choices=DEMOS, default='mask_rcnn_atmnet_xt_demo', metavar='CONFIG',
        help=f'one of {", ".join(DEMOS)} (default: mask_rcnn_atmnet_xt_demo)',
    )  # fmt: skip
    args = parser.parse_args()

    work_dir = Path('work_dirs', args.config)
    scope = read_config(args.config).default_scope
    predictions = work_dir / ('predictions' if scope == 'mmseg' else 'predictions.pkl')
    run('make_demo_data', '--out', 'data/demo')
    run('train', args.config, '--work-dir', work_dir)
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    run('test', args.config, checkpoint, '--work-dir', work_dir, '--out', predictions)
    if scope != 'mmpretrain':
        run('contact_sheet', args.config, predictions, '--out', work_dir / 'contact_sheet.png')
    run('report', work_dir, '--force')


def run(command: str, *arguments: str | Path) -> None:
    """Run another tool; if it fails, exit with its status."""
    if status := run_tool(command, *arguments):
        sys.exit(status)


if __name__ == '__main__':
    main()
