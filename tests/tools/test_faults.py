"""Data-parallel training, and training that cannot go on. For kills see test_kill.py."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from commands import DETECTOR, ROOT, SEGMENTOR, environment, free_port, run, run_pair, scalars
from mmatm.utils.files import PART, damage

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


def weights(file):
    return torch.load(file, weights_only=False)['state_dict']


def started_by(*script):
    """The command that a shell script of tools/ hands to Python, without a launcher's own words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHON', 'echo')
        words = run(*script).split()
    return words[next(i for i, word in enumerate(words) if word.startswith('tools/')) :]


def test_detector_trains_and_tests_in_two_processes(options, tmp_path):
    work_dir = tmp_path / 'work'
    run_pair('tools/train.py', DETECTOR, '--work-dir', work_dir, *options,
             'train_dataloader.batch_size=2', '--launcher=pytorch')  # fmt: skip
    test = DETECTOR, work_dir / 'epoch_1.pth'
    evaluate = '--work-dir', work_dir, *options
    double, _ = run_pair(*started_by('tools/dist_test.sh', *test, 2, *evaluate))
    single = run('tools/test.py', *test, *evaluate)
    found, expected = (re.findall(r'coco/\w+: *([-.0-9]+)', text) for text in (double, single))
    assert found == expected
    assert len(found) == 12


def test_launchers_explain_themselves():
    for script in ('dist_train', 'dist_test', 'slurm_train', 'slurm_test'):
        for words in ([], ['a', '--work-dir', '--amp', '--amp']):
            assert f'tools/{script}.sh' in run(f'tools/{script}.sh', *words, code=2)


def test_several_machines_need_one_address(monkeypatch):
    monkeypatch.setenv('NNODES', '2')
    assert 'NNODES=2 needs RDZV_ENDPOINT' in run('tools/dist_train.sh', SEGMENTOR, 1, code=2)
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MAX_RESTARTS', '1')
    assert 'NNODES=2 needs RDZV_ENDPOINT' in run('tools/dist_train.sh', SEGMENTOR, 1, code=2)


def test_missing_rendezvous_is_looked_for_again(monkeypatch):
    endpoint = f'127.0.0.1:{free_port()}'
    variables = {
        'NNODES': '2', 'RDZV_ENDPOINT': endpoint, 'MAX_RESTARTS': '1',
        'RDZV_CONF': 'is_host=False,read_timeout=1',
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    printed = run('tools/dist_train.sh', SEGMENTOR, 1, code=1)
    assert printed.count(f'the rendezvous at {endpoint} is lost or not found') == 2
    assert 'Traceback' not in printed


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """An ``srun`` that starts one process here, as Slurm would do for ``--ntasks=1``."""
    srun = tmp_path / 'bin' / 'srun'
    srun.parent.mkdir()
    srun.write_text('#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv('PATH', f'{srun.parent}{os.pathsep}{os.environ["PATH"]}')
    variables = {
        'SLURM_JOB_ID': '1', 'RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': '0',
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_requeued_job_continues(seg_options, segmentor, tmp_path, cluster, monkeypatch):
    work_dir = tmp_path / 'work_dir'
    shutil.copytree(segmentor, work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_1.pth'))
    command = ['tools/slurm_train.sh', 'gpu', 'job', SEGMENTOR, work_dir, *seg_options]
    monkeypatch.setenv('SLURM_RESTART_COUNT', '1')
    run(*started_by(*command))
    assert [entry['step'] for entry in scalars(work_dir) if 'loss' in entry] == [2]


def test_new_job_starts_anew(tmp_path, cluster, monkeypatch):
    command = ['tools/slurm_train.sh', 'gpu', 'job', SEGMENTOR, tmp_path, '--amp']
    assert '--continue' not in started_by(*command)
    monkeypatch.setenv('SLURM_RESTART_COUNT', '2')
    assert started_by(*command)[-2:] == ['--continue', '--amp']


@pytest.mark.skipif('MMATM_KILLS' not in os.environ, reason='make killtest runs it')
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


@pytest.fixture
def machine(tmp_path):
    """Starts launchers, each of which stands for a machine that trains with one process."""
    launchers, work_dir = {}, tmp_path / 'killed'
    endpoint = f'127.0.0.1:{free_port()}'

    def start(number, *arguments):
        variables = {
            **environment(), 'MACHINE': str(number), 'NNODES': '2', 'RDZV_ENDPOINT': endpoint,
            'RDZV_CONF': f'is_host={number == 0}', 'LOCAL_ADDR': '127.0.0.1',
        }  # fmt: skip
        with (tmp_path / f'output{number}.txt').open('a') as output:
            launchers[number] = subprocess.Popen(
                ['bash', *map(str, arguments)],
                cwd=ROOT, env=variables, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        return launchers[number]

    yield start
    for process in (*(job.pid for job in launchers.values()), *processes(work_dir).values()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def test_two_processes_train_as_one_and_survive_losses(seg_options, tmp_path, machine, monkeypatch):
    """One process and two come to the same weights; two that are lost, to the same bits as two.

    Two launchers stand for two machines. A process is lost; ``make killtest`` also loses the
    machine that holds the rendezvous, then the other. A machine that was lost starts the same
    command again.
    """
    # The loss of a segmentor is a mean over pixels, so the mean over two halves of a batch is that
    # of the whole; a detector's is divided by the positives of each process.
    common = [
        *seg_options, 'model.decode_head.dropout_ratio=0.0', 'optim_wrapper.optimizer.lr=0.001',
        'train_dataloader.dataset.pipeline.3.prob=0.0',
        'train_dataloader.dataset.pipeline.4.prob=0.0',
        'train_dataloader.dataset.pipeline.5.prob=0.0',
        'train_cfg.val_interval=4', 'default_hooks.checkpoint.interval=2', 'randomness.seed=1',
    ]  # fmt: skip
    one, whole, killed = (tmp_path / name for name in ('one', 'whole', 'killed'))
    run('tools/train.py', SEGMENTOR, '--work-dir', one, *common, 'train_cfg.max_iters=4')
    losses = ['process 1', 'machine 0', 'machine 1'][: 3 if 'MMATM_KILLS' in os.environ else 1]
    steps = 4 + 4 * len(losses)
    options = [*common, 'train_dataloader.batch_size=2', f'train_cfg.max_iters={steps}']
    run_pair('tools/train.py', SEGMENTOR, '--work-dir', whole, *options,
             'default_hooks.checkpoint.interval=4',
             'default_hooks.checkpoint.max_keep_ckpts=-1', '--launcher=pytorch')  # fmt: skip
    expected, found = weights(one / 'iter_4.pth'), weights(whole / 'iter_4.pth')
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)
    # Both evaluate the same weights, one alone and one in two processes.
    single, double = (next(e for e in scalars(w) if 'mIoU' in e) for w in (one, whole))
    assert double['mIoU'] == pytest.approx(single['mIoU'], abs=0.05)

    monkeypatch.setenv('MAX_RESTARTS', '5')
    command = ['tools/dist_train.sh', SEGMENTOR, '1', '--work-dir', killed, *options]
    jobs = [machine(number, *command) for number in range(2)]
    deadline = time.monotonic() + 280

    def printed():
        files = [tmp_path / f'output{number}.txt' for number in range(2)]
        return ''.join(f'{file.name}: {file.read_text()[-3000:]}' for file in files)

    def trains(step):
        saved = killed / 'last_checkpoint'
        newest = int(saved.read_text().split('_')[-1][:-4]) if saved.is_file() else 0
        assert time.monotonic() < deadline, printed()
        assert [job.poll() for job in jobs] == [None, None], printed()
        return newest >= step and len(processes(killed, 'MACHINE')) == 2

    for step, loss in enumerate(losses, 1):
        while not trains(2 * step):
            time.sleep(0.02)
        number = int(loss.split()[1])
        if 'machine' in loss:
            os.killpg(jobs[number].pid, signal.SIGKILL)
            jobs[number].wait()
        os.kill(processes(killed, 'MACHINE')[number], signal.SIGKILL)
        if 'machine' in loss:
            jobs[number] = machine(number, *command)
    assert [job.wait(timeout=280) for job in jobs] == [0, 0], printed()
    assert len(list(killed.glob('*/*.log'))) > len(losses), printed()  # one per start
    expected, found = (weights(w / f'iter_{steps}.pth') for w in (whole, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def processes(work_dir, key='RANK'):
    """Ids of the processes that train in ``work_dir``, by a variable of theirs (Linux only)."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # of another user, or gone
            names = (folder / 'environ').read_bytes().decode(errors='replace').split('\0')
            variables = dict(name.split('=', 1) for name in names if '=' in name)
            trains = str(work_dir).encode() in (folder / 'cmdline').read_bytes()
            if trains and 'RANK' in variables:
                found[int(variables[key])] = int(folder.name)
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
