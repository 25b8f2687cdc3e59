"""tools/report.py: its numbers are those of tools/test.py, and what it says when it cannot run."""

import json
import re
import shutil

import pytest

from browser import chromium, opened
from commands import DETECTOR, SEGMENTOR, metrics, run
from mmatm.cli import _scripts

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


def content(file):
    """The data of a page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', file.read_text(), re.S)[1])


@pytest.fixture(scope='module', params=['detector', 'segmentor'])
def report(request, tmp_path_factory):
    """A report of a run of two steps, and what tools/test.py measures."""
    folder = tmp_path_factory.mktemp('report')
    is_detector = request.param == 'detector'
    work_dir = request.getfixturevalue(request.param)
    if not is_detector:  # as after a kill, which cuts a line of the log
        shutil.copytree(work_dir, folder / 'cut', symlinks=True)
        work_dir = folder / 'cut'
        (log,) = work_dir.glob('*/vis_data/scalars.json')
        log.write_text(log.read_text() + '{"lr": 0.0')
    options = request.getfixturevalue('options' if is_detector else 'seg_options')
    more = ['model.test_cfg.rcnn.score_thr=0.0'] if is_detector else []
    file = folder / 'page.html'
    before = sorted(work_dir.rglob('*'))
    changed = ['--cfg-options', *more] if more else []
    printed = run('tools/report.py', work_dir, '--out', file, '--max-images', 3, *changed)
    assert sorted(work_dir.rglob('*')) == before  # a report changes nothing
    assert str(file) in printed
    config, name = (DETECTOR, 'epoch_1') if is_detector else (SEGMENTOR, 'iter_2')
    run('tools/test.py', config, work_dir / f'{name}.pth', '--work-dir', folder, *options, *more)
    return request.param, file, metrics(folder)


@chromium
def test_report_has_the_numbers_of_the_test(report):
    task, file, expected = report
    page = content(file)
    for name, value in page['metrics'].items():
        assert value == pytest.approx(expected[name]), name
    assert set(page['metrics']) <= set(expected)
    assert len(page['images']) == 3
    assert file.stat().st_size < 10e6
    facts = {name: text for group in page['facts'].values() for name, text in group}
    assert facts['Backbone'] == 'ATMNet (xt)'
    assert facts['Training set'].startswith('8 images')
    assert facts['Test set'].startswith('4 images')
    assert facts['Started from'] == 'random weights'
    assert facts['Batch size'] == '4'
    panels = {panel['title']: panel['curves'] for panel in page['history']['panels']}
    assert [step for step, _ in panels['Loss'][0]['points']] == [1, 2]
    assert panels['Validation']
    with opened(file) as browser:
        text = browser.locator('main').inner_text()
        assert 'mask_rcnn_atmnet_xt_demo' in text.replace('\n', '') or task == 'segmentor'
        assert all(name in text for name in page['classes'])
        for _, command in page['commands']:
            assert command in text
            assert command.split()[1] in _scripts()
        assert browser.locator('.shot').count() == 3
        assert ('cannot be read' in text) == (task == 'segmentor')


@pytest.fixture
def copy(detector, tmp_path):
    """The files of a trained work directory that a report needs."""
    folder = tmp_path / 'work'
    shutil.copytree(detector, folder, ignore=shutil.ignore_patterns('*.pth', 'last_checkpoint'))
    (folder / 'epoch_1.pth').symlink_to(detector / 'epoch_1.pth')
    return folder


def refused(*arguments):
    printed = run('tools/report.py', *arguments, code=1)
    assert 'Traceback' not in printed
    return printed.strip().splitlines()[-1]


@pytest.mark.parametrize(
    'case', ['folder', 'config', 'checkpoint', 'given', 'data', 'exists', 'place', 'type']
)
def test_what_is_missing_is_named(case, copy, segmentor, tmp_path):
    if case == 'folder':
        assert refused(tmp_path / 'none') == (
            f'the work directory {tmp_path / "none"} does not exist'
        )
    elif case == 'config':
        for file in [*copy.glob('*.py'), *copy.glob('*/vis_data/config.py')]:
            file.unlink()
        assert f'{copy} holds no config' in refused(copy)
    elif case == 'checkpoint':
        (copy / 'epoch_1.pth').unlink()
        assert f'{copy} holds no checkpoint' in refused(copy)
    elif case == 'given':
        assert 'other.pth does not exist' in refused(copy, '--checkpoint', copy / 'other.pth')
        checkpoint = segmentor / 'iter_2.pth'
        assert 'does not fit the config' in refused(copy, '--checkpoint', checkpoint)
    elif case == 'data':
        moved = f'test_dataloader.dataset.data_root={tmp_path}/moved/'
        assert f'{tmp_path}/moved' in refused(copy, '--cfg-options', moved)
    elif case == 'place':
        assert '/proc/x cannot be written' in refused(copy, '--out', '/proc/x/report.html')
    elif case == 'type':
        assert 'type MaskRNN,' in refused(copy, '--cfg-options', 'model.type=MaskRNN')
    else:
        (copy / 'report.html').write_text('mine')
        assert 'pass --force' in refused(copy)
        assert (copy / 'report.html').read_text() == 'mine'
    assert not list(copy.glob('*.part'))
