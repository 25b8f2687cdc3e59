"""Shared fixtures, and settings that make the suite faster."""

import pytest

from browser import chromium
from commands import DETECTOR, SEGMENTOR, run

LOADERS = ('train', 'val', 'test')


def pytest_collection_modifyitems(items):
    """Open browsers first: after hundreds of other tests, a process crashed when it started one."""
    items.sort(key=lambda item: chromium.mark not in item.iter_markers('skipif'))


def pytest_collection_finish():
    """Prepare the process when it has imported all of its tests."""
    import torch.utils.data._utils

    import quick  # noqa: F401

    # A data loader that is garbage-collected cannot tell its workers to stop. It waits this long
    # for each of them, then terminates it.
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2


@pytest.fixture
def reader(monkeypatch):
    """Make mmengine read checkpoints as in the tools of mmatm."""
    from mmengine.runner import CheckpointLoader

    from mmatm.checkpoints.loading import install_reader

    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    install_reader()


@pytest.fixture(scope='session')
def demo_data(tmp_path_factory):
    """The datasets of ``make data`` with 8 + 4 small images each."""
    folder = tmp_path_factory.mktemp('data') / 'demo'
    run('tools/make_demo_data.py', '--out', folder, '--train', 8, '--val', 4, '--size', 64,
        '--imagenet-train', 8, '--imagenet-val', 4, '--imagenet-size', 64)  # fmt: skip
    return folder


def _common(root):
    return [
        '--cfg-options',
        *(f'{s}_dataloader.dataset.data_root={root}' for s in LOADERS),
        *(f'{s}_dataloader.num_workers=0' for s in LOADERS),
        *(f'{s}_dataloader.persistent_workers=False' for s in LOADERS),
        'train_dataloader.batch_size=4',
    ]


@pytest.fixture(scope='session')
def options(demo_data):
    """Arguments for a detector's demo config: one epoch of two steps on the small data."""
    annotations = f'{demo_data}/coco/annotations/instances_val2017.json'
    return [
        *_common(f'{demo_data}/coco/'),
        *(f'{s}_evaluator.ann_file={annotations}' for s in LOADERS[1:]),
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'default_hooks.logger.interval=1',
    ]


@pytest.fixture(scope='session')
def seg_options(demo_data):
    """Arguments for a segmentor's demo config: two steps on the small data."""
    return [
        *_common(f'{demo_data}/ade20k'),
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.logger.interval=1',
    ]


@pytest.fixture(scope='session')
def detector(tmp_path_factory, options):
    """Work dir of a Mask R-CNN trained for two steps."""
    folder = tmp_path_factory.mktemp('detector')
    run('tools/train.py', DETECTOR, '--work-dir', folder, *options)
    return folder


@pytest.fixture(scope='session')
def segmentor(tmp_path_factory, seg_options):
    """Work dir of a Semantic FPN trained for two steps."""
    folder = tmp_path_factory.mktemp('segmentor')
    run('tools/train.py', SEGMENTOR, '--work-dir', folder, *seg_options)
    return folder
