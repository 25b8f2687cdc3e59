"""tools/analysis/: complexity, configs, datasets and curves."""

import runpy

import pytest
from mmengine.config import Config
from PIL import Image

from commands import DETECTOR, ROOT, SEGMENTOR, run

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

# Published (ATMNet's code, README): parameters in M, FLOPs in G at 512 x 2048 and 512 x 512. For xt
# and l also the products alone, as counted independently. UperNet takes longest, so two of its
# sizes stand for all.
PUBLISHED = {
    ('upernet', 'xt'): (45.3, 889.5, 887.7),
    ('upernet', 'l'): (107.9, 1105.6, 1103.3),
    ('fpn', 'xt'): (19.1, 33.1, 32.8),
    ('fpn', 't'): (30.9, 42.4),
    ('fpn', 's'): (42.4, 57.8),
    ('fpn', 'b'): (55.9, 74.7),
    ('fpn', 'l'): (79.8, 86.6, 86.2),
}
complexity = runpy.run_path(str(ROOT / 'tools/analysis/get_flops.py'))['complexity']


@pytest.mark.parametrize(('head', 'arch'), list(PUBLISHED))
def test_segmentors_have_the_published_size(head, arch):
    cfg = Config.fromfile(ROOT / f'configs/segmentation/{head}_atmnet_{arch}.py')
    found = complexity(cfg, 512, 2048 if head == 'upernet' else 512)
    parameters, flops, *products = PUBLISHED[head, arch]
    assert round(found['parameters'] / 1e6, 1) == parameters
    # To the printed digit, but UperNet-xt counts 889.449 against 889.5.
    difference = found['flops_fvcore'] / 1e9 - flops
    assert -0.051 <= difference < 0.05
    assert products in ([], [round(found['flops'] / 1e9, 1)])
    assert found['flops_computed'] < found['flops']


def test_get_flops_of_a_detector():
    printed = run('tools/analysis/get_flops.py', DETECTOR, '--shape', 96, 96)
    assert 'parameters' in printed
    assert 'for one image of 96 x 96' in printed


def test_print_config():
    printed = run('tools/analysis/print_config.py', SEGMENTOR, '--cfg-options', 'randomness.seed=7')
    assert "type='FPNHead'" in printed
    assert 'seed=7' in printed


@pytest.mark.parametrize('config', [DETECTOR, SEGMENTOR])
def test_browse_dataset(config, options, seg_options, tmp_path):
    run('tools/analysis/browse_dataset.py', '--output-dir', tmp_path, config, '--not-show',
        *(options if config == DETECTOR else seg_options))  # fmt: skip
    assert len(list(tmp_path.rglob('*.jpg'))) == 8


def test_plot_logs(detector, segmentor, tmp_path):
    out = tmp_path / 'curves.png'
    printed = run('tools/analysis/plot_logs.py', detector, segmentor, '--out', out)
    assert str(out) in printed
    assert Image.open(out).width > 300
    run('tools/analysis/plot_logs.py', detector, '--out', out, '--keys', 'loss', 'coco/bbox_mAP')
    printed = run('tools/analysis/plot_logs.py', detector, '--out', out, '--keys', 'los', code=1)
    assert 'no log has los; there are' in printed
    wrong = tmp_path / 'curves.xyz'
    printed = run('tools/analysis/plot_logs.py', detector, '--out', wrong, code=1)
    assert f'--out {wrong} cannot be written: ' in printed.splitlines()[-1]


@pytest.mark.parametrize('tool', ['get_flops', 'print_config', 'browse_dataset', 'plot_logs'])
def test_bad_arguments_are_one_sentence(tool):
    more = ['--out', 'x.png'] if tool == 'plot_logs' else []
    printed = run(f'tools/analysis/{tool}.py', 'configs/nothing.py', *more, code=1)
    assert 'configs/nothing.py' in printed
    assert len(printed.strip().splitlines()) == 1
