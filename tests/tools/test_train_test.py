"""The tools end to end on a tiny generated data set, as a user runs them."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmdet')
ROOT = Path(__file__).parents[2]
CONFIG = 'configs/detection/mask_rcnn_atmnet_xt_demo.py'


def run(*command, cwd=ROOT, code=0):
    """Run a tool of the project; its output, after checking its exit status."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def options(tmp_path_factory):
    """Config options that point the demo config at 4 + 2 small pictures."""
    data = tmp_path_factory.mktemp('data') / 'demo'
    run('tools/make_demo_data.py', '--out', data, '--train', 4, '--val', 2, '--size', 64)
    root = f'{data}/coco/'
    annotations = f'{root}annotations/instances_val2017.json'
    return [
        '--cfg-options',
        *(f'{s}_dataloader.dataset.data_root={root}' for s in ('train', 'val', 'test')),
        *(f'{s}_dataloader.num_workers=0' for s in ('train', 'val', 'test')),
        *(f'{s}_dataloader.persistent_workers=False' for s in ('train', 'val', 'test')),
        *(f'{s}_evaluator.ann_file={annotations}' for s in ('val', 'test')),
        'train_dataloader.batch_size=2',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
    ]


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory, options):
    """A work dir after one epoch of two iterations."""
    folder = tmp_path_factory.mktemp('work')
    run('tools/train.py', CONFIG, '--work-dir', folder, *options)
    return folder


def scalars(work_dir):
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in files[-1].read_text().splitlines()]


def test_train_saves_and_evaluates(work_dir):
    assert (work_dir / 'epoch_1.pth').is_file()
    assert any('coco/bbox_mAP_50' in line for line in scalars(work_dir))


def test_resume_continues(work_dir, options):
    run(
        'tools/train.py', CONFIG, '--work-dir', work_dir, '--resume', *options,
        'train_cfg.max_epochs=2', 'default_hooks.checkpoint.max_keep_ckpts=2',
    )  # fmt: skip
    assert (work_dir / 'epoch_2.pth').is_file()
    assert [line['step'] for line in scalars(work_dir) if 'coco/bbox_mAP' in line] == [2]


def test_test_dumps_draws_and_scores(work_dir, options, tmp_path):
    out = tmp_path / 'predictions.pkl'
    printed = run(
        'tools/test.py', CONFIG, work_dir / 'epoch_1.pth', '--work-dir', tmp_path / 'work',
        '--out', out, '--show-dir', tmp_path / 'show', *options,
    )  # fmt: skip
    assert 'coco/bbox_mAP_50' in printed
    assert 'coco/segm_mAP_50' in printed
    with out.open('rb') as file:
        predictions = pickle.load(file)
    assert len(predictions) == 2
    assert 'masks' in predictions[0]['pred_instances']
    assert len(list((tmp_path / 'show').glob('*.jpg'))) == 2

    sheet = tmp_path / 'sheet.png'
    printed = run(
        'tools/contact_sheet.py', CONFIG, out, '--out', sheet, '--rows', 1, '--columns', 2,
        *options,
    )  # fmt: skip
    assert str(sheet) in printed
    assert sheet.stat().st_size > 1000


def test_test_time_augmentation(work_dir, options, tmp_path):
    printed = run(
        'tools/test.py', CONFIG, work_dir / 'epoch_1.pth', '--work-dir', tmp_path, '--tta', *options
    )
    assert 'coco/bbox_mAP_50' in printed


def test_stock_script_of_mmdet(options, tmp_path):
    import mmdet

    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    if not script.exists():
        script = Path(mmdet.__file__).parents[1] / 'tools' / 'train.py'
    run(script, CONFIG, '--work-dir', tmp_path, *options)
    assert (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_missing_data_is_one_sentence(tool, tmp_path):
    arguments = [ROOT / f'tools/{tool}.py', ROOT / 'configs/detection/mask_rcnn_atmnet_t.py']
    if tool == 'test':
        arguments.append('checkpoint.pth')
    printed = run(*arguments, cwd=tmp_path, code=1)
    assert len(printed.strip().splitlines()) == 1
    for part in ('data/coco', str(tmp_path), 'docs/data.md'):
        assert part in printed


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['tools/train.py', 'configs/nothing.py'], 'configs/nothing.py'),
        (['tools/test.py', CONFIG, 'nothing.pth'], 'nothing.pth'),
        (['tools/test.py', CONFIG, 'README.md', '--out', 'x.txt'], 'x.txt'),
        (['tools/train.py', CONFIG, '--auto-scale-lr', 'auto_scale_lr={}'], '--auto-scale-lr'),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, said, options):
    extra = [a for a in arguments if '=' in a]
    arguments = [a for a in arguments if '=' not in a]
    printed = run(*arguments, *options, *extra, code=1)
    assert said in printed.strip().splitlines()[-1]
    assert 'Traceback' not in printed
