"""What a training run logged, over its steps."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Curve = dict[int, float]  # step -> value
_NOT_CURVES = ('step', 'iter', 'epoch')
_NOT_METRICS = (*_NOT_CURVES, 'time', 'data_time')


@dataclass
class History:
    """Scalars that training logged.

    Attributes:
        train: curves over iterations, by name: losses, learning rates, times.
        metrics: curves of validation, over epochs if ``by_epoch``, else over iterations.
        by_epoch: whether validation counts epochs.
        resumed: the first logged iteration of each run that continued another.
        runs: folders of the runs, oldest first.
        problems: sentences about what could not be read.
    """

    train: dict[str, Curve] = field(default_factory=dict)
    metrics: dict[str, Curve] = field(default_factory=dict)
    by_epoch: bool = False
    resumed: list[int] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_history(work_dir: Path) -> History:
    """Read and join the logs of all training runs in ``work_dir``.

    A resumed run replaces what the runs before it logged from its first step on; one that started
    anew replaces everything.
    """
    history = History()
    kept: list[tuple[int, bool, dict[str, Any]]] = []  # iteration, whether of training, scalars
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        new = list(_located(_records(file, history.problems)))
        if not any(is_train for _, is_train, _ in new):
            continue  # an evaluation
        run = file.parents[1]
        first = next(at for at, is_train, _ in new if is_train)
        kept = [entry for entry in kept if entry[0] < first] if _resumes(run) else []
        if kept:
            history.resumed.append(first)
            history.runs.append(run)
        else:
            history.resumed, history.runs = [], [run]
        kept += new
    # In iteration-based training mmengine may log epochs, but counts none: metrics are at step 0.
    history.by_epoch = all(record['step'] for _, is_train, record in kept if not is_train) and any(
        'epoch' in record for _, is_train, record in kept if is_train
    )
    for at, is_train, record in kept:
        curves, left_out = (
            (history.train, _NOT_CURVES) if is_train else (history.metrics, _NOT_METRICS)
        )
        for name, value in record.items():
            if name not in left_out and isinstance(value, (int, float)):
                step = record['step'] if history.by_epoch else max(at, record['step'])
                curves.setdefault(name, {})[at if is_train else step] = value
    if not kept and not history.problems:
        history.problems.append(
            f'{work_dir} has no */vis_data/scalars.json of a training run, so there are no curves'
        )
    return history


def _records(file: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of a log that can be read."""
    try:
        lines = file.read_text(errors='replace').splitlines()
    except OSError as error:
        problems.append(f'{file} cannot be read ({error.strerror}), so its curves are missing')
        return
    broken = 0
    for line in lines:
        try:
            record = json.loads(line)
            valid = isinstance(record, dict) and isinstance(record.get('step'), int)
        except ValueError:
            valid = False
        if valid:
            yield record
        else:
            broken += 1
    if broken:
        problems.append(f'{broken} of {len(lines)} lines of {file} cannot be read and are left out')


def _located(records: Iterator[dict[str, Any]]) -> Iterator[tuple[int, bool, dict[str, Any]]]:
    """Add the iteration at which each record was written."""
    at = 0
    for record in records:
        is_train = any(name.split('.')[-1] == 'lr' for name in record)
        if is_train:
            at = record['step']
        yield at, is_train, record


def _resumes(run: Path) -> bool:
    config = run / 'vis_data' / 'config.py'
    return not config.is_file() or bool(re.search('^resume ?= ?True', config.read_text(), re.M))
