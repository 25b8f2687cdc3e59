"""The benchmark's arithmetic and the formulation that it compares with."""

import json
from pathlib import Path

import pytest
import torch

from commands import DETECTOR, SEGMENTOR, run
from mmatm.measuring.comparisons import report
from mmatm.measuring.timing import Comparison, Target, measure
from mmatm.models import ATMNet
from mmatm.models.published import use_published_formulation


def test_published_formulation_of_a_whole_backbone():
    torch.manual_seed(0)
    model = ATMNet('xt').double().eval()
    published = use_published_formulation(ATMNet('xt').double().eval())
    published.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 64, 96).double()
    torch.testing.assert_close(model(image), published(image), rtol=1e-9, atol=1e-9)


def test_targets():
    results = {
        'mmatm': dict(seconds=2.0, mebibytes=3.0),
        'published': dict(seconds=14.0, mebibytes=6.0),
    }
    assert Target('published', 7.0).ratio(results) == 7.0
    assert Target('published', 0.6, at_least=False, figure='mebibytes').ratio(results) == 0.5
    assert Target('swin-t', 1.0).ratio(results) is None


@pytest.mark.parametrize(('bound', 'mark'), [(1.0, 'met'), (9.0, 'SHORT')])
def test_a_target_missed_is_marked(bound, mark, capsys):
    comparison = Comparison('sleeping', {}, [Target('other', bound)])
    results = {
        name: dict(seconds=s, least=s, greatest=s) for name, s in (('mmatm', 1.0), ('other', 2.0))
    }
    (line,) = report(comparison, results)
    assert line.endswith(mark)
    assert '2.00' in line
    assert 'sleeping' in capsys.readouterr().out


def test_rounds_are_interleaved_and_the_first_does_not_count():
    calls = []
    cases = {name: lambda name=name: calls.append(name) for name in 'ab'}
    results = measure(Comparison('calls', cases), repeats=2, device='cpu')
    assert ''.join(calls) == 'ababab'
    assert set(results) == {'a', 'b'}
    assert set(results['a']) == {'seconds', 'least', 'greatest', 'cpu_seconds'}


def test_command_line(tmp_path):
    command = ['tools/benchmark.py', 'sampling', '--repeats', '1']
    assert 'copy' in run(*command, '--out', tmp_path)
    content = json.loads((tmp_path / 'benchmark.json').read_text())
    assert content['results']['sampling, four stages']['copy']['seconds'] > 0
    assert (tmp_path / 'benchmark.png').stat().st_size > 1000
    assert 'nothing' in run(*command, 'nothing', code=2)


def test_configs(options, tmp_path):
    pytest.importorskip('mmdet')
    file = tmp_path / 'figures.json'
    command = ['tools/benchmark.py', DETECTOR, '--rounds', 1, '--shape', 64, 64, '--json', file]
    printed = run(*command, *options)
    figures = json.loads(file.read_text())
    assert figures['settings']['rounds'] == 1
    result = figures['configs'][Path(DETECTOR).stem]
    assert result['shape'] == [64, 64]
    for part in ('inference', 'train', 'data'):
        assert result[part]['images_per_second'] > 0
    assert f'{result["parameters"] / 1e6:.1f} M' in printed
    file.write_text('mine')
    printed = run(*command, code=1)
    assert printed.strip().splitlines() == [f'{file} exists; pass --force to replace it']
    assert file.read_text() == 'mine'


def test_configs_of_other_packages_and_missing_data(tmp_path):
    pytest.importorskip('mmseg')
    theirs = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
    printed = run('tools/benchmark.py', SEGMENTOR, theirs, '--parts', 'data', '--cfg-options',
                  f'train_dataloader.dataset.data_root={tmp_path}', code=1)  # fmt: skip
    lines = printed.strip().splitlines()
    assert sum(line.startswith('data loading of ') for line in lines) == 2
    assert lines[-1] == 'nothing was measured'


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['weights.pth'], 'checkpoint weights.pth must follow'),
        ([SEGMENTOR, 'weights.pth'], 'weights.pth does not exist'),
        (['fpn_atmnet_x'], 'did you mean fpn_atmnet_xt'),
        (['mmseg::sem_fpn/fpn_r51.py'], 'sem_fpn/fpn_r51.py does not exist in'),
        (['nothing::a.py'], 'needs nothing, which is not installed'),
    ],
)
def test_bad_words_are_one_sentence(words, said):
    pytest.importorskip('mmseg')
    printed = run('tools/benchmark.py', *words, code=1)
    assert said in printed
    assert len(printed.strip().splitlines()) == 1


def test_checkpoint_of_another_model_is_rejected(segmentor):
    pytest.importorskip('mmdet')
    printed = run('tools/benchmark.py', DETECTOR, segmentor / 'iter_2.pth', '--parts', 'inference',
                  '--shape', 64, 64, code=1)  # fmt: skip
    assert 'does not fit the config' in printed
    assert 'Traceback' not in printed
