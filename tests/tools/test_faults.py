"""Data-parallel training, and training that was killed."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from commands import DETECTOR, ROOT, SEGMENTOR, environment, run, scalars

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


def weights(file):
    return torch.load(file, weights_only=False)['state_dict']


def test_two_processes_train_as_one(seg_options, tmp_path):
    # The loss of a segmentor is a mean over pixels, so the mean over two halves of a batch is that
    # of the whole; a detector's is divided by the positives of each process, and one with class
    # weights by the weights of its own pixels.
    common = [
        *seg_options, 'train_cfg.max_iters=5', 'model.decode_head.dropout_ratio=0.0',
        'model.decode_head.loss_decode.class_weight=None', 'optim_wrapper.optimizer.lr=0.001',
        'train_cfg.val_interval=5', 'default_hooks.checkpoint.interval=5',
        'train_dataloader.dataset.pipeline.3.prob=0.0',
        'train_dataloader.dataset.pipeline.4.prob=0.0',
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


def test_killed_training_resumes(options, tmp_path):
    extra = [*options, 'train_cfg.max_epochs=4', 'train_cfg.val_interval=4',
             'train_dataloader.batch_size=2']  # fmt: skip
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    run('tools/train.py', DETECTOR, '--work-dir', whole, *extra)

    process = subprocess.Popen(
        [sys.executable, 'tools/train.py', DETECTOR, '--work-dir', str(killed), *extra],
        cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not logged(killed, step=6):  # in the middle of the second epoch of four steps
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # As if it had been killed while writing the next one.
    newest = max(int(p.stem.split('_')[1]) for p in killed.glob('epoch_*.pth'))
    half = (killed / f'epoch_{newest}.pth').read_bytes()
    (killed / f'epoch_{newest + 1}.pth').write_bytes(half[: len(half) // 2])

    run('tools/train.py', DETECTOR, '--work-dir', killed, '--resume', *extra)
    resumed = [e for e in scalars(killed) if 'loss' in e]
    assert resumed[0]['step'] == 4 * newest + 1
    rates = {e['step']: e['lr'] for e in scalars(whole) if 'loss' in e}
    for entry in resumed:
        assert entry['lr'] == pytest.approx(rates[entry['step']], rel=1e-6)
    last = torch.load(killed / 'epoch_4.pth', weights_only=False)
    assert last['meta']['iter'] == 16
    states = last['optimizer']['state'].values()
    assert {int(state['step']) for state in states} == {16}
    assert all('exp_avg_sq' in state for state in states)


def logged(work_dir, step):
    files = list(work_dir.glob('*/vis_data/scalars.json'))
    return any(f'"step": {step}' in file.read_text() for file in files)
