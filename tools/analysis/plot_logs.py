#!/usr/bin/env python
"""Plot losses and metrics of one or several runs:
python tools/analysis/plot_logs.py WORK_DIR [WORK_DIR ...] --out curves.png
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt

Curve = dict[int, float]  # step -> value
ASIDE = ('lr', 'base_lr', 'data_time', 'time', 'iter', 'epoch', 'step', 'memory', 'grad_norm')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('work_dirs', nargs='+', type=Path, help='folders of tools/train.py')
    parser.add_argument('--out', required=True, help='image to write, e.g. curves.png')
    parser.add_argument(
        '--keys', nargs='+', help='what to plot, e.g. loss coco/bbox_mAP (default: all but times)'
    )
    args = parser.parse_args()

    runs = {str(folder): read_run(folder) for folder in args.work_dirs}
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
            steps = sorted(run[key])
            values = [run[key][step] for step in steps]
            axis.plot(steps, values, marker='.' if len(steps) < 20 else '', label=name)
            if values:
                print(f'{key} of {name}: {values[-1]:.4g} at the end')
        axis.set_title(key)
        axis.set_xlabel('epoch' if '/' in key and is_by_epoch(runs) else 'iteration')
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(keys) :]:
        axis.remove()
    if len(runs) > 1:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc='outside lower center')
    figure.savefig(args.out, dpi=100)
    print(f'{len(keys)} curves of {len(runs)} runs: {Path(args.out).resolve()}')


def read_run(work_dir: Path) -> dict[str, Curve]:
    """Read all scalars in ``work_dir``; after a resume, later values replace earlier ones."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not files:
        sys.exit(f'{work_dir} has no */vis_data/scalars.json, which tools/train.py writes')
    curves: dict[str, Curve] = defaultdict(dict)
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the last line of a killed run
                print(f'{file}, line {number}: not JSON, left out', file=sys.stderr)
                continue
            for key, value in entry.items():
                if isinstance(value, (int, float)) and 'step' in entry:
                    curves[key][entry['step']] = value
    return curves


def is_by_epoch(runs: dict[str, dict[str, Curve]]) -> bool:
    """Whether metrics were logged by epoch, so that their steps are far below the iterations."""
    return any('epoch' in run for run in runs.values())


if __name__ == '__main__':
    main()
