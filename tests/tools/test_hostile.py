"""Checkpoints that execute code: rejected by all tools, unless the user trusts them."""

import pathlib

import pytest
import torch

from commands import DETECTOR, derive, run
from hostile import Bomb
from mmatm.checkpoints.reading import TRUST_FLAG

pytest.importorskip('mmdet')


@pytest.fixture
def save(detector, tmp_path):
    """A function that saves a trained detector with additional content."""

    def save(**more):
        checkpoint = torch.load(detector / 'epoch_1.pth', weights_only=False)
        checkpoint['meta'].update(more)
        torch.save(checkpoint, tmp_path / 'epoch_1.pth')
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
        return tmp_path / 'epoch_1.pth'

    return save


def pretrained(file):
    """A config whose backbone starts from ``file``."""
    init_cfg = f"dict(_delete_=True, type='Pretrained', checkpoint={str(file)!r})"
    addition = f'model = dict(backbone=dict(init_cfg={init_cfg}))'
    return derive(DETECTOR, addition, file.parent / 'pretrained.py')


def commands(tool, file, options, image):
    """The command line that makes a tool read ``file``."""
    work_dir = ('--work-dir', file.parent)
    return {
        'test': ['tools/test.py', DETECTOR, file, *work_dir, *options],
        'resume': ['tools/train.py', DETECTOR, '--resume', file, *work_dir, *options],
        'auto': ['tools/train.py', DETECTOR, '--resume', *work_dir, *options],
        'load': ['tools/train.py', DETECTOR, *work_dir, *options, f'load_from={file}'],
        'init': ['tools/train.py', pretrained(file), *work_dir, *options],
        'demo': ['tools/image_demo.py', image, DETECTOR, file,
                 '--out-dir', file.parent / 'found', '--device', 'cpu'],
        'convert': ['tools/convert_checkpoint.py', file, file.parent / 'weights.pth'],
    }[tool]  # fmt: skip


@pytest.fixture
def image(demo_data):
    return next(demo_data.glob('coco/val2017/*'))


@pytest.mark.parametrize('tool', ['test', 'resume', 'auto', 'load', 'init', 'demo', 'convert'])
def test_code_in_a_checkpoint_is_not_run(tool, save, options, image, tmp_path):
    file = save(payload=Bomb(tmp_path / 'executed'))
    printed = run(*commands(tool, file, options, image), code=1)
    assert TRUST_FLAG in printed
    assert str(file) in printed
    assert not (tmp_path / 'executed').exists()


def test_text_that_mmengine_would_execute_is_not_run(save, options, tmp_path):
    file = save(config=f'open({str(tmp_path / "executed")!r}, "w")')
    run(*commands('resume', file, options, None), 'train_cfg.max_epochs=2')
    assert (tmp_path / 'epoch_2.pth').is_file()
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('tool', ['test', 'auto', 'demo'])
def test_trusted_objects_are_read(tool, save, options, image):
    file = save(place=pathlib.PurePosixPath('somewhere'))
    command = commands(tool, file, options, image)
    if tool == 'test':
        assert TRUST_FLAG in run(*command, code=1)
    run(command[0], TRUST_FLAG, *command[1:])
