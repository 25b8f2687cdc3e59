"""Training that is killed and resumed ends with the same bits as an uninterrupted run.

Training processes get SIGKILL at random moments, also while they write a checkpoint or evaluate,
and are then resumed. ``MMATM_KILLS`` sets how often each of the two tasks is killed (default 1);
``make killtest`` sets 20.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

import commands
from commands import DETECTOR, SEGMENTOR, derive
from mmatm.checkpoints import read_checkpoint
from mmatm.utils.files import PART, damage
from reference import identical

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

KILLS = int(os.environ.get('MMATM_KILLS', '1'))
MOMENTS = ('anywhere', 'step', 'checkpoint', 'evaluation')
TIMEOUT = 1800  # only against hanging: other work may have the cores

# A small backbone makes runs short. Stochastic depth, shuffling, flips and worker processes all
# draw random numbers. Each evaluation step has one image.
COMMON = """
arch = dict(
    depths=(2, 2, 2, 2), widths=(32, 64, 96, 128), mlp_ratios=(2, 2, 2, 2), shares=(2, 4, 4, 8),
    interval=2,
)
loader = dict(batch_size=2, num_workers=2, persistent_workers={persistent})
evaluation = dict(batch_size=1, num_workers=0, persistent_workers=False)
"""
DETECTION = """
model = dict(
    backbone=dict(arch=dict(_delete_=True, **arch), drop_path_rate=0.3),
    neck=dict(in_channels=list(arch['widths'][:3])),
)
train_dataloader = dict(dataset=dict(data_root='{data}/coco/'), **loader)
val_dataloader = dict(dataset=dict(data_root='{data}/coco/'), **evaluation)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{data}/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=5, val_interval=2)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=2, save_best='coco/bbox_mAP')
)
"""
SEGMENTATION = """
model = dict(
    backbone=dict(arch=dict(_delete_=True, **arch), drop_path_rate=0.3),
    neck=dict(in_channels=list(arch['widths'][:3])),
    decode_head=dict(dropout_ratio=0.2),
)
train_dataloader = dict(dataset=dict(data_root='{data}/ade20k'), **loader)
val_dataloader = dict(dataset=dict(data_root='{data}/ade20k'), **evaluation)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=20, val_interval=5)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3, max_keep_ckpts=-1))
randomness = dict(_delete_=True, seed=None)
"""
TASKS = {
    'detector': (DETECTOR, COMMON.format(persistent=False) + DETECTION, 'epoch'),
    'segmentor': (SEGMENTOR, COMMON.format(persistent=True) + SEGMENTATION, 'iter'),
}


class Training:
    """A process that trains in ``work_dir``, and what can be seen of it from outside."""

    def __init__(self, config, work_dir, *arguments):
        self.work_dir = work_dir
        self.before = set(work_dir.glob('*/*.log'))
        self.output = work_dir.parent / 'output.txt'
        self.output.write_text('')
        words = ['tools/train.py', config, '--work-dir', work_dir, *arguments]
        self.process = commands.start(*words, out=self.output, err=self.output, group=True)

    def wait_for(self, moment, seconds):
        """Until the moment has come, or the process has ended."""
        started = time.monotonic()
        reached = {
            'anywhere': lambda: True,
            'step': lambda: '(train)' in self.log(),
            'checkpoint': lambda: any(self.work_dir.glob(f'*{PART}')),
            'evaluation': lambda: '(val)' in self.log(),
        }[moment]
        while not reached() and self.process.is_alive():
            assert time.monotonic() < started + TIMEOUT
            time.sleep(0.001 if moment == 'checkpoint' else 0.02)
        if moment != 'checkpoint' and self.process.is_alive():
            time.sleep(seconds)

    def log(self):
        return ''.join(
            file.read_text() for file in set(self.work_dir.glob('*/*.log')) - self.before
        )

    def kill(self):
        """Whether the process was still there to be killed."""
        alive = self.process.is_alive()
        self.process.kill()
        self.process.join()
        # Its worker processes would end as well, but later.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return alive

    def finish(self):
        self.process.join(TIMEOUT)
        assert self.process.exitcode == 0, self.output.read_text()[-4000:]


def saved_step(work_dir, unit):
    """The step of the checkpoint last reported saved, which must be there and whole; 0 if none."""
    last = work_dir / 'last_checkpoint'
    if not last.exists():
        return 0
    newest = Path(last.read_text())
    for file in {newest, *work_dir.glob('*.pth')}:
        assert damage(file) is None
        read_checkpoint(file)
    return int(re.fullmatch(rf'{unit}_(\d+)', newest.stem)[1])


def state(work_dir):
    """All that the end of a run comes to: weights, optimizer, schedulers, step."""
    last = read_checkpoint((work_dir / 'last_checkpoint').read_text())
    meta = {key: last['meta'][key] for key in ('epoch', 'iter', 'seed')}
    return {key: last[key] for key in ('state_dict', 'optimizer', 'param_schedulers')} | meta


@pytest.fixture
def start():
    """Starts a :class:`Training`, none of which outlives the test."""
    started = []

    def start(*arguments):
        started.append(Training(*arguments))
        return started[-1]

    yield start
    for training in started:
        training.kill()


@pytest.mark.parametrize('task', TASKS)
def test_killed_training_ends_as_if_it_had_not_been(task, demo_data, tmp_path, start):
    base, addition, unit = TASKS[task]
    config = derive(base, addition.format(data=demo_data), tmp_path / 'config.py')
    # The seed is passed only at first: a resumed run must take that of the run it continues.
    seed = ['--cfg-options', 'randomness.seed=3']
    started = time.monotonic()
    whole = start(config, tmp_path / 'whole', *seed)
    whole.finish()
    duration = time.monotonic() - started
    expected = state(tmp_path / 'whole')
    shutil.rmtree(tmp_path / 'whole')

    chance = random.Random(f'{task} {KILLS}')
    kills, halves, runs = 0, 0, 0
    while kills < KILLS:
        runs += 1
        work_dir = tmp_path / f'killed{runs}'
        training, saved = start(config, work_dir, *seed), 0
        while True:
            moment = chance.choice(MOMENTS)
            longest = {'anywhere': duration, 'step': 2.0, 'evaluation': 0.3}.get(moment, 0)
            if kills < KILLS:
                training.wait_for(moment, chance.uniform(0, longest))
            if kills == KILLS or not training.kill():
                training.finish()
                break
            kills += 1
            halves += any(work_dir.glob(f'*{PART}'))
            before, saved = saved, saved_step(work_dir, unit)
            assert saved >= before, f'a checkpoint was lost by kill {kills}, at {moment}'
            training = start(config, work_dir, '--resume', *([] if saved else seed))
        ended = state(work_dir)
        assert [key for key in expected if not identical(ended[key], expected[key])] == []
        assert not list(work_dir.glob(f'*{PART}'))
        if task == 'detector':
            assert len(list(work_dir.glob('epoch_*.pth'))) == 2
        shutil.rmtree(work_dir)
    print(f'{task}: {kills} kills in {runs} runs, {halves} of them while a file was written')
