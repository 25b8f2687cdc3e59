"""Checkpoints and resuming, with a runner small enough to be stopped at every place."""

import os
import random
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn

from mmatm.checkpoints import CheckpointError, read_checkpoint
from mmatm.engine import ExactRunner
from mmatm.engine.durable_checkpoint import LAST
from mmatm.engine.exact_resume import _ResumedStream
from mmatm.utils.files import PART, checksum_path, damage, write_atomically, write_with_checksum
from reference import identical


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours may catch it."""


@MODELS.register_module()
class NoisyLine(BaseModel):
    """A linear layer with all kinds of random numbers in its loss."""

    def __init__(self, outputs=1):
        super().__init__()
        self.layer = nn.Linear(3, outputs)

    def forward(self, inputs, mode='tensor'):
        noise = torch.rand(1) + random.random() + np.random.rand()
        values = self.layer(nn.functional.dropout(torch.stack(list(inputs)), 0.3)) + noise
        return {'loss': values.square().mean()} if mode == 'loss' else [values]


@DATASETS.register_module()
class NoisyPoints(BaseDataset):
    """Ten points, augmented with all kinds of random numbers. Records which were loaded."""

    loaded: list[int] = []  # noqa: RUF012  only of use without workers

    def load_data_list(self):
        # A batch sampler of mmdet keeps tall images apart.
        return [dict(value=float(i), width=9 - i, height=6) for i in range(10)]

    def prepare_data(self, idx):
        self.loaded.append(idx)
        value = self.get_data_info(idx)['value'] / 10
        return dict(inputs=torch.tensor([value, random.random(), np.random.rand()]) + torch.rand(1))


@METRICS.register_module()
class Rising(BaseMetric):
    """Increases with every evaluation, which also draws random numbers."""

    value = 0

    def process(self, *_):
        self.results.append(random.random() + np.random.rand() + torch.rand(1).item())

    def compute_metrics(self, _):
        Rising.value += 1
        return {'acc': Rising.value}


@HOOKS.register_module()
class Stop(Hook):
    """Ends the run after some steps, like a kill."""

    def __init__(self, after):
        self.after = after

    def after_train_iter(self, runner, *_, **__):
        if runner.iter + 1 == self.after:
            raise Killed


def settings(work_dir, unit='epoch', workers=0, stop=None, **checkpoint):
    by_epoch = unit == 'epoch'
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    loader = dict(num_workers=workers, persistent_workers=workers > 0 and not by_epoch)
    points = dict(type='NoisyPoints')
    loop = dict(max_epochs=4) if by_epoch else dict(max_iters=20)
    return dict(
        model=dict(type='NoisyLine'),
        work_dir=str(work_dir),
        train_dataloader=dict(dataset=points, batch_size=2, sampler=sampler, **loader),
        train_cfg=dict(by_epoch=by_epoch, val_interval=1 if by_epoch else 5, **loop),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=dict(type='LinearLR', by_epoch=False, end=20),
        val_dataloader=dict(
            dataset=points, batch_size=5, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        val_cfg=dict(),
        val_evaluator=dict(type='Rising'),
        default_hooks=dict(
            checkpoint=dict(
                type='DurableCheckpointHook',
                by_epoch=by_epoch,
                interval=1 if by_epoch else 5,
                **checkpoint,
            )
        ),
        custom_hooks=[dict(type='Stop', after=stop)] if stop else [],
        log_level='WARNING',
        default_scope='mmengine',
    )


names = iter(range(10**6))


def train(config, **changes):
    """Train in this process and return the runner; each has its own name, as in a new process."""
    config = Config(dict(config, **changes, experiment_name=f'run{next(names)}'))
    runner = ExactRunner.from_cfg(config)
    runner.train()
    return runner


def newest(work_dir):
    return read_checkpoint((work_dir / LAST).read_text())


def same(one, other):
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert identical(one[key], other[key]), key


@pytest.mark.parametrize('unit', ['epoch', 'iter'])
@pytest.mark.parametrize('workers', [0, 2])
def test_resumed_run_ends_like_an_uninterrupted_one(unit, workers, tmp_path):
    train(settings(tmp_path / 'whole', unit, workers), randomness=dict(seed=5))
    for stop in (3, 8, 17):
        with pytest.raises(Killed):
            train(settings(tmp_path / 'a', unit, workers, stop), randomness=dict(seed=5))
        # Other workers, and no seed: the checkpoint has all that matters.
        seed = dict(seed=5 if stop == 3 else None)
        train(settings(tmp_path / 'a', unit, 2 - workers), resume=True, randomness=seed)
        same(newest(tmp_path / 'a'), newest(tmp_path / 'whole'))
        shutil.rmtree(tmp_path / 'a')


BATCHES = dict(batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'))


@pytest.mark.parametrize(
    ('unit', 'loader', 'checkpoint'),
    [
        ('iter', dict(sampler=dict(type='DefaultSampler'), batch_size=4), {}),  # 4 + 4 + 2 images
        ('iter', dict(BATCHES, collate_fn=dict(type='default_collate'), batch_size=3), {}),
        ('epoch', dict(BATCHES, num_workers=2), dict(by_epoch=False, interval=3)),  # 5 per epoch
    ],
)
def test_other_batches_resume_alike(unit, loader, checkpoint, tmp_path, monkeypatch):
    pytest.importorskip('mmdet.datasets')
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda _: None)

    def run(name, **how):
        config = settings(tmp_path / name, unit, stop=how.pop('stop', None))
        config['train_dataloader'].update(loader)
        config['default_hooks']['checkpoint'].update(checkpoint)
        return train(config, **how)

    run('whole', randomness=dict(seed=5))
    with pytest.raises(Killed):
        run('a', stop=9, randomness=dict(seed=5))
    assert run('a', resume=True).iter == 20
    same(newest(tmp_path / 'a'), newest(tmp_path / 'whole'))


class EagerStream:
    """As in OpenMMLab's mmengine: it starts at once."""

    def __init__(self, loader):
        self._iterator = iter(loader)

    def __next__(self):
        return next(self._iterator)


@pytest.mark.parametrize('workers', [0, 2])
def test_stream_that_starts_at_once_resumes_alike(workers, tmp_path, monkeypatch):
    train(settings(tmp_path / 'whole', 'iter'), randomness=dict(seed=5))
    monkeypatch.setattr('mmengine.runner.loops._InfiniteDataloaderIterator', EagerStream)
    monkeypatch.setattr(_ResumedStream, 'skip_iter', lambda s, n: [next(s) for _ in range(n)])
    with pytest.raises(Killed):
        train(settings(tmp_path / 'a', 'iter', workers, 13), randomness=dict(seed=5))
    train(settings(tmp_path / 'a', 'iter', workers), resume=True)
    same(newest(tmp_path / 'a'), newest(tmp_path / 'whole'))


def test_seeds_and_steps_differ(tmp_path):
    ends = []
    for seed in (1, 2):
        train(settings(tmp_path / str(seed), 'iter'), randomness=dict(seed=seed))
        ends.append(newest(tmp_path / str(seed))['state_dict']['layer.weight'])
    assert not torch.equal(*ends)


def test_every_image_gets_its_own_random_numbers():
    seen = []
    for rank in (0, 1):
        loader = Runner.build_dataloader(
            dict(
                batch_size=2,
                num_workers=0,
                dataset=dict(type='ExactDataset', dataset=dict(type='NoisyPoints')),
                sampler=dict(type='ExactSampler', sampler=dict(type='DefaultSampler')),
            ),
            seed=7,
        )
        sampler = loader.sampler
        sampler.data_rank = rank
        for epoch in (0, 1):
            sampler.data_epoch, sampler.drawn = epoch, 0
            seen += [tuple(v[1:].tolist()) for batch in loader for v in batch['inputs']]
    assert len(set(seen)) == len(seen) == 40


def test_images_of_earlier_steps_are_not_loaded(tmp_path):
    with pytest.raises(Killed):
        train(settings(tmp_path, 'iter', stop=17))
    NoisyPoints.loaded.clear()
    train(settings(tmp_path, 'iter'), resume=True, val_cfg=None, val_dataloader=None,
          val_evaluator=None)  # fmt: skip
    assert len(NoisyPoints.loaded) == 2 * 5


def test_checkpoint_is_plain_data_with_a_checksum(tmp_path):
    train(settings(tmp_path))
    files = sorted(path.name for path in tmp_path.glob('epoch_*'))
    assert files == sorted(f'epoch_{i}.pth{s}' for i in range(1, 5) for s in ('', '.sha256'))
    for i in range(1, 5):
        assert damage(tmp_path / f'epoch_{i}.pth') is None
        torch.load(tmp_path / f'epoch_{i}.pth', weights_only=False)
    if shutil.which('sha256sum'):
        subprocess.run(['sha256sum', '-c', 'epoch_4.pth.sha256'], cwd=tmp_path, check=True)
    assert isinstance(newest(tmp_path)['message_hub']['runtime_info']['data_seed'], int)


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    Rising.value = 0
    train(settings(tmp_path, max_keep_ckpts=2, save_best='acc'))
    files = sorted(path.name for path in tmp_path.glob('*.pth*'))
    assert files == [
        f'{name}.pth{suffix}'
        for name in ('best_acc_epoch_4', 'epoch_3', 'epoch_4')
        for suffix in ('', '.sha256')
    ]


@pytest.mark.parametrize('best', ['acc', ['acc', 'mAP']])
def test_run_that_goes_on_elsewhere_leaves_the_files_of_the_first(best, tmp_path, monkeypatch):
    monkeypatch.setattr(Rising, 'compute_metrics', lambda self, _: dict.fromkeys(('acc', 'mAP'), 1))
    train(settings(tmp_path / 'first', save_best=best))
    before = sorted((tmp_path / 'first').glob('*.pth'))
    monkeypatch.setattr(Rising, 'compute_metrics', lambda self, _: dict.fromkeys(('acc', 'mAP'), 2))
    train(settings(tmp_path / 'other', save_best=best), resume=True,
          load_from=str(tmp_path / 'first/epoch_3.pth'))  # fmt: skip
    assert sorted((tmp_path / 'first').glob('*.pth')) == before
    assert (tmp_path / 'other/best_acc_epoch_4.pth').is_file()


def test_metric_that_is_not_measured_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'save_best .* is mAP, but the evaluation measured acc'):
        train(settings(tmp_path, save_best='mAP'))


@pytest.mark.parametrize(('keep', 'moments'), [(1, (2, 5, 9, 14, 20)), (2, (9, 14))])
def test_old_checkpoints_outlive_a_kill_while_saving(keep, moments, tmp_path, monkeypatch):
    """After a kill at any file operation of saving, last_checkpoint names a readable file."""
    operations = [(os, 'replace'), (os, 'fsync'), (Path, 'unlink')]
    fired = 0
    for module, name in operations:
        for at in moments:
            work_dir = tmp_path / f'{name}{at}'
            calls = 0
            original = getattr(module, name)

            def killing(*args, original=original, at=at, **kwargs):
                nonlocal calls
                calls += 1
                if calls >= at:  # from then on: a killed process does nothing more
                    raise Killed
                return original(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(module, name, killing)
                try:
                    train(settings(work_dir, max_keep_ckpts=keep, save_best='acc'))
                except Killed:
                    fired += 1
            if (work_dir / LAST).exists():
                reported = Path((work_dir / LAST).read_text())
                assert damage(reported) is None
                read_checkpoint(reported)
            train(settings(work_dir, max_keep_ckpts=keep, save_best='acc'), resume=True)
            assert len(list(work_dir.glob('epoch_*.pth'))) == keep
            best = list(work_dir.glob('best_*.pth'))
            assert best
            assert [damage(path) for path in best] == [None] * len(best)
            assert not list(work_dir.glob(f'*{PART}'))
    assert fired > 2 * len(moments)


def spoil(path, how):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if how == 'removed':
        path.unlink()
        return
    if how == 'flipped':
        content[middle] ^= 4
    else:
        del content[middle if how == 'truncated' else 0 :]
    path.write_bytes(content)


@pytest.fixture
def runs(tmp_path):
    """The work directory of a run that stopped in its third epoch."""
    with pytest.raises(Killed):
        train(settings(tmp_path, stop=13))
    return tmp_path


def warnings(work_dir):
    files = sorted(work_dir.glob('*/*.log'), key=os.path.getmtime)
    return ' '.join(files[-1].read_text().split())


@pytest.mark.parametrize('how', ['truncated', 'flipped', 'empty', 'removed'])
@pytest.mark.parametrize('checksum', [True, False])
def test_damaged_last_checkpoint_falls_back(how, checksum, runs):
    spoil(runs / 'epoch_2.pth', how)
    if not checksum:
        checksum_path(runs / 'epoch_2.pth').unlink()
    runner = train(settings(runs), resume=True)
    assert runner.epoch == 4
    text = warnings(runs)
    assert 'epoch_2.pth' in text
    assert f'resuming from {runs / "epoch_1.pth"} instead' in text
    assert damage(runs / 'epoch_2.pth') is None  # written again


@pytest.mark.parametrize('content', ['', None, 'elsewhere/epoch_2.pth'])
def test_last_checkpoint_that_names_none(content, runs):
    (runs / LAST).unlink() if content is None else (runs / LAST).write_text(content)
    train(settings(runs), resume=True)
    assert f'resuming from {runs / "epoch_2.pth"} instead' in warnings(runs)


def test_names_with_padded_numbers(tmp_path):
    name = 'model_{:03}.pth'
    with pytest.raises(Killed):
        train(settings(tmp_path, stop=13, filename_tmpl=name))
    (tmp_path / LAST).unlink()
    train(settings(tmp_path, filename_tmpl=name), resume=True)
    assert f'resuming from {tmp_path / "model_002.pth"} instead' in warnings(tmp_path)


def on_machines(monkeypatch, *found):
    """Make this the first machine, and the others find something else in the work directory."""
    name = 'mmatm.engine.durable_checkpoint.all_gather_object'
    monkeypatch.setattr(name, lambda own: [found[0] if found[0] is not None else own, *found[1:]])


def test_all_machines_resume_what_the_first_finds(runs, monkeypatch):
    on_machines(monkeypatch, str(runs / 'epoch_1.pth'), str(runs / 'epoch_2.pth'))
    before = (runs / 'epoch_2.pth').stat().st_mtime_ns
    assert train(settings(runs)).epoch == 4  # it saw no checkpoint, and was not told to resume
    assert (runs / 'epoch_1.pth').stat().st_mtime_ns < before
    assert (runs / 'epoch_2.pth').stat().st_mtime_ns > before  # trained again


@pytest.mark.parametrize('found', [(None, '/there/epoch_2.pth'), ('/there/epoch_2.pth', '')])
def test_machines_must_share_the_work_directory(found, tmp_path, monkeypatch):
    on_machines(monkeypatch, *found)
    with pytest.raises(CheckpointError, match=r'there/epoch_2\.pth is not on all machines'):
        train(settings(tmp_path))


def test_later_file_that_was_not_recorded_is_not_taken(runs):
    (runs / 'epoch_7.pth').write_bytes((runs / 'epoch_1.pth').read_bytes()[:1000])
    train(settings(runs), resume=True)
    assert 'instead' not in warnings(runs)


def test_no_good_checkpoint_is_an_error(runs):
    spoil(runs / 'epoch_1.pth', 'truncated')
    spoil(runs / 'epoch_2.pth', 'flipped')
    with pytest.raises(CheckpointError) as error:
        train(settings(runs), resume=True)
    for part in ('nothing in', 'epoch_1.pth', 'epoch_2.pth', '--resume CHECKPOINT'):
        assert part in str(error.value)


def test_checkpoint_of_other_shapes_is_rejected(runs):
    model = dict(type='NoisyLine', outputs=2)
    with pytest.raises(CheckpointError, match=r'layer\.bias is \[1\], expected \[2\]'):
        train(settings(runs), model=model, resume=True)
    train(settings(runs), model=model, load_from=str(runs / 'epoch_1.pth'))


@pytest.mark.parametrize('content', [None, ''])
def test_run_without_checkpoints_starts_anew(content, tmp_path):
    if content is not None:
        (tmp_path / LAST).write_text(content)
    assert train(settings(tmp_path), resume=True).epoch == 4


@pytest.mark.parametrize('out_dir', [None, 'out'])
def test_relative_folders(out_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings('work', stop=13, out_dir=out_dir)
    folder = Path(out_dir or '', 'work')
    with pytest.raises(Killed):
        train(config)
    spoil(folder / 'epoch_2.pth', 'truncated')
    train(dict(config, custom_hooks=[]), resume=True)
    assert (folder / 'epoch_4.pth').is_file()
    assert f'{folder}/epoch_1.pth instead' in warnings(Path('work'))


def test_file_too_large_stops_with_one_sentence(runs):
    before = {path: path.read_bytes() for path in runs.glob('epoch_*')}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match=r'not written: .* are intact.*epoch_3\.pth'):
            train(settings(runs), resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(runs.glob(f'*{PART}'))
    assert not list(runs.glob('epoch_3*'))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (runs / LAST).read_text().endswith('epoch_2.pth')
    train(settings(runs), resume=True)


def test_atomic_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_with_checksum(path, b'old')
    monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'full')))
    with pytest.raises(OSError, match='full'):
        write_atomically(path, b'new')
    assert path.read_bytes() == b'old'
    assert damage(path) is None
    assert len(list(tmp_path.iterdir())) == 2


def test_other_backends_are_left_alone(tmp_path):
    train(settings(tmp_path, backend_args=dict(backend='local')))
    assert (tmp_path / 'epoch_4.pth').is_file()
    assert not checksum_path(tmp_path / 'epoch_4.pth').exists()
