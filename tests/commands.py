"""Running the project's tools as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DETECTOR = 'configs/detection/mask_rcnn_atmnet_xt_demo.py'
SEGMENTOR = 'configs/segmentation/fpn_atmnet_xt_demo.py'


def environment():
    """The surrounding environment, with this Python first and one thread a process."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return {**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1'}


def run(*command, cwd=ROOT, code=0):
    """Run a tool of the project; what it printed, after checking its exit status."""
    first = str(command[0])
    program = ['bash'] if first.endswith('.sh') else [sys.executable]
    done = subprocess.run(
        [*program, *map(str, command)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def derive(config, addition, file):
    """Write a config file that adds some lines to one of the project's."""
    file.write_text(f'_base_ = {str(ROOT / config)!r}\n{addition}')
    return file


def scalars(work_dir):
    """All that the newest run in ``work_dir`` logged, one dict an entry."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in files[-1].read_text().splitlines()]


def metrics(work_dir):
    """What the newest tools/test.py in ``work_dir`` measured."""
    files = sorted(work_dir.glob('*/*.json'))
    return json.loads(files[-1].read_text())
