"""Logs of one run or several, whole or broken."""

import json

import pytest

from mmatm.report.history import read_history
from mmatm.report.work_dir import ReportError, find_checkpoint, find_config, read_logs


@pytest.fixture
def log(tmp_path):
    """A function that writes the scalars of a run: steps of training, then of validation."""

    def log(name, steps, val=(), value=1.0, resume=False, epoch=True, more=''):
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        lines = []
        for step in steps:
            entry = dict(lr=0.1, loss=value, time=0.5, iter=step, step=step)
            lines.append(json.dumps(dict(entry, epoch=1) if epoch else entry))
            if step in val:
                lines.append(json.dumps({'coco/bbox_mAP': value, 'time': 9, 'step': val[step]}))
        (folder / 'scalars.json').write_text('\n'.join(lines) + '\n' + more)
        (folder / 'config.py').write_text(f'resume = {resume}\n')
        return folder.parent

    return log


def test_resumed_run_replaces_what_came_after(log, tmp_path):
    log('20260101_000000', [50, 100, 150, 200], {100: 1, 200: 2})
    second = log('20260102_000000', [150, 200, 250], {200: 2}, value=2.0, resume=True)
    history = read_history(tmp_path)
    assert history.train['loss'] == {50: 1.0, 100: 1.0, 150: 2.0, 200: 2.0, 250: 2.0}
    assert history.metrics == {'coco/bbox_mAP': {1: 1.0, 2: 2.0}}
    assert history.resumed == [150]
    assert history.runs == [tmp_path / '20260101_000000', second]
    assert history.by_epoch
    assert not history.problems


def test_metric_after_the_resumed_step_is_dropped(log, tmp_path):
    log('20260101_000000', [50, 100, 150, 200], {100: 1, 200: 2})
    log('20260102_000000', [150], value=2.0, resume=True)
    assert read_history(tmp_path).metrics == {'coco/bbox_mAP': {1: 1.0}}


def test_metrics_of_iteration_based_training_that_mmengine_puts_at_epoch_0(log, tmp_path):
    log('20260101_000000', [50, 100], {50: 0, 100: 0})
    history = read_history(tmp_path)
    assert history.metrics == {'coco/bbox_mAP': {50: 1.0, 100: 1.0}}
    assert not history.by_epoch


def test_new_start_replaces_everything(log, tmp_path):
    log('20260101_000000', [50, 100])
    second = log('20260102_000000', [100], value=2.0, epoch=False)
    history = read_history(tmp_path)
    assert history.train['loss'] == {100: 2.0}
    assert history.runs == [second]
    assert not history.resumed
    assert not history.by_epoch


def test_evaluations_are_not_runs(log, tmp_path):
    run = log('20260101_000000', [50])
    folder = tmp_path / '20260102_000000' / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('{"coco/bbox_mAP": 0.5, "step": 0}\n')
    history = read_history(tmp_path)
    assert history.runs == [run]
    assert not history.metrics


@pytest.mark.parametrize('broken', ['{"lr": 0.1, "lo', '[]', '{"lr": 1}', '\0\0', '{"step": "a"}'])
def test_broken_line_is_counted_and_the_rest_kept(log, tmp_path, broken):
    log('20260101_000000', [50, 100], more=broken)
    history = read_history(tmp_path)
    assert list(history.train['loss']) == [50, 100]
    (problem,) = history.problems
    assert problem.startswith('1 of 3 lines')
    assert 'scalars.json' in problem


def test_log_that_cannot_be_opened_is_a_problem(tmp_path):
    (tmp_path / 'run' / 'vis_data' / 'scalars.json').mkdir(parents=True)
    assert 'cannot be read (Is a directory)' in read_history(tmp_path).problems[0]


def test_no_log_is_a_problem_and_no_error(tmp_path):
    history = read_history(tmp_path)
    assert not history.train
    assert str(tmp_path) in history.problems[0]


def test_config_is_that_of_training(log, tmp_path):
    run = log('20260101_000000', [50])
    with pytest.raises(ReportError, match='no config'):
        find_config(tmp_path, [])
    top = tmp_path / 'mine.py'
    top.write_text('resume = False\n')
    assert find_config(tmp_path, [run]) == ('mine', top)
    top.write_text('model = None  # as evaluated with other settings\n')
    assert find_config(tmp_path, [run]) == ('mine', run / 'vis_data' / 'config.py')


def test_checkpoint_is_the_best_else_the_last(tmp_path):
    with pytest.raises(ReportError, match='no checkpoint'):
        find_checkpoint(tmp_path)
    for name in ('epoch_2.pth', 'epoch_10.pth'):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path).name == 'epoch_10.pth'
    (tmp_path / 'last_checkpoint').write_text('/moved/away/epoch_2.pth')
    assert find_checkpoint(tmp_path) == tmp_path / 'epoch_2.pth'
    (tmp_path / 'best_coco_bbox_mAP_epoch_2.pth').touch()
    assert find_checkpoint(tmp_path).name.startswith('best_')


def test_times_of_runs_add_up(tmp_path):
    for day in '12':
        run = tmp_path / f'2026010{day}_235900'
        run.mkdir()
        (run / 'a.log').write_text(
            '2026/01/01 10:00:00 - mmengine - INFO -\n    Python: 3.11.7 (main)\n'
            f'    GPU 0: NVIDIA H{day}00\n01/01 10:00:30 - mmengine - INFO - Epoch\n'
        )
    environment, seconds = read_logs(sorted(tmp_path.iterdir()))
    assert environment == {'Python': '3.11.7 (main)', 'GPU 0': 'NVIDIA H200'}
    assert seconds == 60


@pytest.mark.parametrize(('name', 'seconds'), [('20251231_235900', 60), ('mine', 0)])
def test_times_of_a_run_into_the_new_year(name, seconds, tmp_path):
    (tmp_path / name).mkdir()
    lines = [f'{time} - mmengine - INFO\n' for time in ('12/31 23:59:30', '01/01 00:00:30')]
    (tmp_path / name / 'a.log').write_text(''.join([*lines, '02/30 00:00:00 - no date\n']))
    assert read_logs([tmp_path / name])[1] == seconds
