"""mmatm test --corruptions, beside mmdet's own tool."""

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from commands import DETECTOR, SEGMENTOR, run
from mmatm.cli import robustness
from mmatm.cli.robustness import GROUPS, corruptions, table
from mmatm.engine import Corrupt

mmdet = pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('imagecorruptions', reason='the extra "evaluation" is not installed')
# Untrained boxes find some objects, whose number tells more than their precision.
ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@100', 'AR@300', 'AR@1000')


@pytest.fixture(scope='module')
def more(options):
    items = ','.join(f"'{item}'" for item in ITEMS)
    return [*options, 'test_evaluator.metric=bbox', f'test_evaluator.metric_items=[{items}]',
            'model.test_cfg.rcnn.score_thr=0.0', 'model.test_cfg.rcnn.nms.class_agnostic=False',
            'model.test_cfg.rpn.max_per_img=60', 'model.test_cfg.rcnn.max_per_img=200',
            'randomness.seed=3']  # fmt: skip


def test_equals_the_tool_of_mmdet(detector, more, tmp_path):
    checkpoint = detector / 'epoch_1.pth'
    names = ('gaussian_noise', 'contrast')
    common = ['--work-dir', tmp_path, *more]
    first = run('tools/test.py', DETECTOR, checkpoint, '--corruptions', names[0],
                '--severities', 4, *common)  # fmt: skip
    assert first.count('evaluating ') == 2
    # What has been evaluated is not again.
    second = run('tools/test.py', DETECTOR, checkpoint, '--corruptions', *names,
                 '--severities', 4, *common)  # fmt: skip
    assert second.count('evaluating ') == 1
    assert '| contrast | ' in second
    ours = json.loads((tmp_path / 'robustness.json').read_text())['results']
    assert '| gaussian_noise | ' in (tmp_path / 'robustness.md').read_text()

    tools = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'analysis_tools'
    script = tmp_path / 'test_robustness.py'  # where mmdet's own tool imports, and registers ours
    script.write_text(
        'import runpy, sys, mmatm\n'
        f'sys.path.insert(0, {str(tools.parents[1])!r})\n'
        f'runpy.run_path({str(tools / "test_robustness.py")!r}, run_name="__main__")\n'
    )
    out = tmp_path / 'theirs.pkl'
    run(script, DETECTOR, checkpoint, '--out', out, '--seed', 3, '--corruptions', names[0],
        '--severities', 0, 4, *common)  # fmt: skip
    theirs = pickle.loads(out.with_name('theirs_results.pkl').read_bytes())[names[0]]
    for severity in (0, 4):
        assert ours[names[0]][str(severity)] == pytest.approx(theirs[severity], abs=1e-9)
    values = [ours[name][s]['coco/bbox_AR@1000'] for name in names for s in ('0', '4')]
    assert values[0] == values[2] > 0
    assert len(set(values)) == 3

    printed = run('tools/test.py', DETECTOR, checkpoint, '--corruptions', *common,
                  'model.test_cfg.rcnn.max_per_img=7', code=1)  # fmt: skip
    assert 'results of another checkpoint or other settings' in printed


def test_segmentor(segmentor, seg_options, tmp_path):
    run('tools/test.py', SEGMENTOR, segmentor / 'iter_2.pth', '--work-dir', tmp_path,
        '--corruptions', 'brightness', '--severities', 5, *seg_options)  # fmt: skip
    found = json.loads((tmp_path / 'robustness.json').read_text())['results']['brightness']
    assert found['0']['aAcc'] != found['5']['aAcc']
    assert 'mIoU: P ' in (tmp_path / 'robustness.md').read_text()


def test_names_and_groups():
    assert corruptions(['noise', 'fog', 'weather']) == [
        'gaussian_noise', 'shot_noise', 'impulse_noise', 'fog', 'snow', 'frost', 'brightness',
    ]  # fmt: skip
    assert len(GROUPS['benchmark']) == 15
    assert len(set(GROUPS['all'])) == 19
    with pytest.raises(ValueError, match='there is no corruption rain; there are the groups'):
        corruptions(['fog', 'rain'])
    printed = run('tools/test.py', 'fpn_atmnet_xt', 'none', '--corruptions', 'rain', code=2)
    assert 'there is no corruption rain' in printed
    printed = run('tools/test.py', 'fpn_atmnet_xt', 'none', '--severities', 2, code=2)
    assert '--severities needs --corruptions' in printed


def test_every_test_set_is_corrupted():
    load = dict(type='LoadImageFromFile')
    sets = dict(type='ConcatDataset', datasets=[dict(pipeline=[load]), dict(pipeline=[load])])
    cfg = Config(dict(test_dataloader=dict(dataset=sets)))
    change = dict(type='Corrupt', corruption='fog', severity=2)
    for severity, expected in ((0, [load]), (2, [load, change])):
        for dataset in robustness._loader(cfg, 'fog', severity).dataset.datasets:
            assert dataset.pipeline == expected


def test_a_checkpoint_may_be_named_in_another_way(tmp_path, monkeypatch):
    (tmp_path / 'x.pth').write_bytes(b'weights')
    monkeypatch.chdir(tmp_path)
    names = ('x.pth', str(tmp_path / 'x.pth'), 'ema:x.pth', 'https://server/x.pth')
    first, *others = [robustness._identity(Config(dict(load_from=name))) for name in names]
    assert [first == other for other in others] == [True, False, False]


def test_what_is_no_number_is_left_out(tmp_path, monkeypatch):
    results = iter([{'accuracy/top1': 80.0, 'matrix': torch.eye(2)}, {}])
    runner = SimpleNamespace(
        model=None, test_loop=SimpleNamespace(), test=lambda: next(results),
        build_dataloader=str, set_randomness=str,
    )  # fmt: skip
    monkeypatch.setattr(robustness, 'make_runner', lambda _: runner)
    monkeypatch.setattr(robustness, 'load_whole_model', lambda *_: None)
    cfg = Config(
        dict(
            work_dir=str(tmp_path),
            load_from='x.pth',
            test_dataloader=dict(dataset=dict(pipeline=[1])),
        )
    )
    found = robustness.evaluate(cfg, ['fog'], [1])
    assert found == {'fog': {'0': {'accuracy/top1': 80.0}, '1': {}}}
    # A detector that finds nothing has no AP.
    assert 'P 80.000, mPC 0.000, rPC 0.0 %' in (tmp_path / 'robustness.md').read_text()
    (tmp_path / 'robustness.json').write_text('{"identity"')
    with pytest.raises(SystemExit, match='cannot be read'):
        robustness.evaluate(cfg, ['fog'], [1])


def test_table_has_the_means_of_the_benchmark():
    results = {
        'fog': {'0': {'mIoU': 50.0}, '1': {'mIoU': 40.0}, '2': {'mIoU': 20.0}},
        'snow': {'0': {'mIoU': 50.0}, '1': {'mIoU': 25.0}, '2': {'mIoU': 15.0}},
    }
    lines = table(results).splitlines()
    assert lines[0] == '| mIoU | severity 1 | severity 2 | mean |'
    assert lines[2:4] == [
        '| fog | 40.000 | 20.000 | 30.000 |', '| snow | 25.000 | 15.000 | 20.000 |',
    ]  # fmt: skip
    assert lines[-1] == 'mIoU: P 50.000, mPC 25.000, rPC 50.0 %'


def test_corrupt_as_a_transform(monkeypatch):
    assert repr(Corrupt('fog', 2)) == 'Corrupt(corruption=fog, severity=2)'
    monkeypatch.setitem(sys.modules, 'imagecorruptions', None)
    with pytest.raises(ImportError, match='imagecorruptions-imaug'):
        Corrupt('fog')
