#!/usr/bin/env python
"""Plot losses and metrics of one or several runs:
python tools/analysis/plot_logs.py WORK_DIR [WORK_DIR ...] --out curves.png
"""

import argparse
import math
import sys
from pathlib import Path

import matplotlib

from mmatm.cli.figures import save_figure
from mmatm.report.history import History, read_history

matplotlib.use('Agg')
from matplotlib import pyplot as plt

ASIDE = ('lr', 'base_lr', 'data_time', 'time', 'memory', 'grad_norm')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('work_dirs', nargs='+', type=Path, help='folders of tools/train.py')
    parser.add_argument('--out', required=True, help='image to write, e.g. curves.png')
    parser.add_argument(
        '--keys', nargs='+', help='what to plot, e.g. loss coco/bbox_mAP (default: all but times)'
    )
    args = parser.parse_args()

    histories = [read_run(folder) for folder in args.work_dirs]
    runs = {
        str(folder): history.train | history.metrics
        for folder, history in zip(args.work_dirs, histories, strict=True)
    }
    by_epoch = {key for history in histories if history.by_epoch for key in history.metrics}
    found = sorted({key for run in runs.values() for key in run})
    for key in args.keys or []:
        if key not in found:
            sys.exit(f'no log has {key}; there are {", ".join(found)}')
    keys = args.keys or [key for key in found if key not in ASIDE]
    if not keys:
        sys.exit(f'nothing was logged yet in {", ".join(runs)}')
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5 * columns, 3.2 * rows), squeeze=False, layout='constrained'
    )
    for axis, key in zip(axes.flat, keys, strict=False):
        for name, run in runs.items():
            curve = run.get(key, {})
            steps = sorted(curve)
            values = [curve[step] for step in steps]
            axis.plot(steps, values, marker='.' if len(steps) < 20 else '', label=name)
            if values:
                print(f'{key} of {name}: {values[-1]:.4g} at the end')
        axis.set_title(key)
        axis.set_xlabel('epoch' if key in by_epoch else 'iteration')
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(keys) :]:
        axis.remove()
    if len(runs) > 1:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc='outside lower center')
    save_figure(figure, args.out)
    print(f'{len(keys)} curves of {len(runs)} runs: {Path(args.out).resolve()}')


def read_run(work_dir: Path) -> History:
    """Read what was logged in ``work_dir``, and say what of it cannot be read."""
    history = read_history(work_dir)
    if not history.train:
        sys.exit(history.problems[0])
    print(*history.problems, sep='\n', end='\n' if history.problems else '', file=sys.stderr)
    return history


if __name__ == '__main__':
    main()
