"""Data-parallel training, and training that cannot go on. For kills see test_kill.py."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from commands import DETECTOR, ROOT, SEGMENTOR, environment, run, scalars
from mmatm.utils.files import PART, damage

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


def weights(file):
    return torch.load(file, weights_only=False)['state_dict']


def test_two_processes_train_as_one(seg_options, tmp_path):
    # The loss of a segmentor is a mean over pixels, so the mean over two halves of a batch is that
    # of the whole; a detector's is divided by the positives of each process.
    common = [
        *seg_options, 'train_cfg.max_iters=5', 'model.decode_head.dropout_ratio=0.0',
        'optim_wrapper.optimizer.lr=0.001', 'train_cfg.val_interval=5',
        'default_hooks.checkpoint.interval=5',
        'train_dataloader.dataset.pipeline.3.prob=0.0',
        'train_dataloader.dataset.pipeline.4.prob=0.0',
        'train_dataloader.dataset.pipeline.5.prob=0.0',
    ]  # fmt: skip
    one, two = tmp_path / 'one', tmp_path / 'two'
    run('tools/train.py', SEGMENTOR, '--work-dir', one, *common)
    run('tools/dist_train.sh', SEGMENTOR, 2, '--work-dir', two, *common,
        'train_dataloader.batch_size=2')  # fmt: skip
    expected, found = weights(one / 'iter_5.pth'), weights(two / 'iter_5.pth')
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)
    # Both evaluate the same weights, one alone and one in two processes.
    (single,), (double,) = ([e for e in scalars(w) if 'mIoU' in e] for w in (one, two))
    assert double['mIoU'] == pytest.approx(single['mIoU'], abs=0.05)


def test_detector_trains_and_tests_in_two_processes(options, tmp_path):
    run('tools/dist_train.sh', DETECTOR, 2, '--work-dir', tmp_path, *options,
        'train_dataloader.batch_size=2')  # fmt: skip
    printed = run(
        'tools/dist_test.sh', DETECTOR, tmp_path / 'epoch_1.pth', 2, '--work-dir', tmp_path,
        *options,
    )  # fmt: skip
    assert 'coco/bbox_mAP_50' in printed


def test_launchers_explain_themselves():
    for script in ('dist_train', 'dist_test', 'slurm_train', 'slurm_test'):
        printed = run(f'tools/{script}.sh', code=2)
        assert f'tools/{script}.sh' in printed


def test_killed_process_ends_the_job(seg_options, tmp_path):
    script = [
        'tools/dist_train.sh', SEGMENTOR, 2, '--work-dir', tmp_path, *seg_options,
        'train_dataloader.batch_size=2', 'train_cfg.max_iters=100000',
        'train_cfg.val_interval=100000', 'default_hooks.checkpoint.interval=100000',
    ]  # fmt: skip
    with (tmp_path / 'output.txt').open('w') as output:
        job = subprocess.Popen(
            ['bash', *map(str, script)],
            cwd=ROOT, env=environment(), stdout=output, stderr=output,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 280
        while not list(tmp_path.glob('*/vis_data/scalars.json')) or not scalars(tmp_path):
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(processes(tmp_path)[1], signal.SIGKILL)
        assert job.wait(timeout=60) != 0
        assert not processes(tmp_path)
    finally:
        for process in (job.pid, *processes(tmp_path).values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    assert 'Signal 9 (SIGKILL)' in (tmp_path / 'output.txt').read_text()


def test_killed_process_is_started_again(seg_options, tmp_path):
    """With ``MAX_RESTARTS``, the job ends with the bits of an uninterrupted one, without a hand."""
    options = [
        *seg_options, 'train_dataloader.batch_size=2', 'train_cfg.max_iters=12',
        'train_cfg.val_interval=12', 'default_hooks.checkpoint.interval=2', 'randomness.seed=1',
    ]  # fmt: skip
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    run('tools/dist_train.sh', SEGMENTOR, 2, '--work-dir', whole, *options)
    command = ['bash', 'tools/dist_train.sh', SEGMENTOR, '2', '--work-dir', killed, *options]
    with (tmp_path / 'output.txt').open('w') as output:
        job = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT, env={**environment(), 'MAX_RESTARTS': '1'}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 280
        while not (killed / 'last_checkpoint').exists():
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(processes(killed)[1], signal.SIGKILL)
        printed = (tmp_path / 'output.txt').read_text
        assert job.wait(timeout=280) == 0, printed()[-3000:]
    finally:
        for process in (job.pid, *processes(killed).values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    assert len(list(killed.glob('*/*.log'))) == 2, printed()[-3000:]  # one per start
    expected, found = weights(whole / 'iter_12.pth'), weights(killed / 'iter_12.pth')
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def processes(work_dir):
    """Ids of the processes that train in ``work_dir``, by rank (Linux only)."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # of another user, or gone
            names = (folder / 'environ').read_bytes().decode(errors='replace').split('\0')
            ranks = [name for name in names if name.startswith('RANK=')]
            if ranks and str(work_dir).encode() in (folder / 'cmdline').read_bytes():
                found[int(ranks[0].removeprefix('RANK='))] = int(folder.name)
    return found


@pytest.fixture
def small_disk(segmentor, tmp_path):
    """A disk with room for one checkpoint of a segmentor, and not for two."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    size = 1.5 * (segmentor / 'iter_2.pth').stat().st_size
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={size:.0f}', 'tmpfs', str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip('a disk can only be mounted by root')
    yield folder
    subprocess.run(['umount', '--lazy', str(folder)], check=True)


def test_full_disk_stops_with_one_sentence(seg_options, small_disk):
    printed = run(
        'tools/train.py', SEGMENTOR, '--work-dir', small_disk, *seg_options, code=1
    )  # fmt: skip
    said = printed.strip().splitlines()[-1]
    assert 'No space left on device' in said
    assert 'continue with --resume' in said
    assert str(small_disk / 'iter_2.pth') in said
    files = sorted(path.name for path in small_disk.glob('iter_*'))
    assert files == ['iter_1.pth', 'iter_1.pth.sha256']
    assert damage(small_disk / 'iter_1.pth') is None
    assert not list(small_disk.glob(f'*{PART}'))
    assert (small_disk / 'last_checkpoint').read_text() == str(small_disk / 'iter_1.pth')
