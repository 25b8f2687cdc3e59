"""tools/analysis/: complexity, configs, data sets and curves."""

import importlib.util

import pytest
from mmengine.config import Config
from PIL import Image

from commands import DETECTOR, ROOT, SEGMENTOR, run

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

# Published (ATMNet's code, README): parameters in M, FLOPs in G at 512 x 2048 and 512 x 512, and
# the products alone as counted independently for xt and l.
PUBLISHED = {
    ('upernet', 'xt'): (45.3, 889.5),
    ('upernet', 't'): (57.1, 926.9),
    ('upernet', 's'): (68.6, 988.3),
    ('upernet', 'b'): (82.1, 1055.9),
    ('upernet', 'l'): (107.9, 1105.6),
    ('fpn', 'xt'): (19.1, 33.1),
    ('fpn', 't'): (30.9, 42.4),
    ('fpn', 's'): (42.4, 57.8),
    ('fpn', 'b'): (55.9, 74.7),
    ('fpn', 'l'): (79.8, 86.6),
}
PRODUCTS = {
    ('upernet', 'xt'): 887.7,
    ('upernet', 'l'): 1103.3,
    ('fpn', 'xt'): 32.8,
    ('fpn', 'l'): 86.2,
}


def get_flops():
    spec = importlib.util.spec_from_file_location('flops', ROOT / 'tools/analysis/get_flops.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(('head', 'arch'), list(PUBLISHED))
def test_segmentors_have_the_published_size(head, arch):
    cfg = Config.fromfile(ROOT / f'configs/segmentation/{head}_atmnet_{arch}.py')
    found = get_flops().complexity(cfg, 512, 2048 if head == 'upernet' else 512)
    parameters, flops = PUBLISHED[head, arch]
    assert round(found['parameters'] / 1e6, 1) == parameters
    # Nine of ten to the printed digit; UperNet-xt counts 889.449 against 889.5.
    difference = found['flops_fvcore'] / 1e9 - flops
    assert -0.051 <= difference < 0.05
    if (head, arch) in PRODUCTS:
        assert round(found['flops'] / 1e9, 1) == PRODUCTS[head, arch]
    assert found['flops_computed'] < found['flops']


def test_get_flops_of_a_detector():
    printed = run('tools/analysis/get_flops.py', DETECTOR, '--shape', 96, 96)
    assert 'parameters' in printed
    assert 'for one image of 96 x 96' in printed


def test_print_config():
    printed = run('tools/analysis/print_config.py', SEGMENTOR, '--cfg-options', 'randomness.seed=7')
    assert "type='FPNHead'" in printed
    assert 'seed=7' in printed


def test_browse_dataset_of_a_detector(options, tmp_path):
    run('tools/analysis/browse_dataset.py', DETECTOR, '--output-dir', tmp_path, '--not-show',
        *options)  # fmt: skip
    assert len(list(tmp_path.glob('*.jpg'))) == 8


def test_browse_dataset_of_a_segmentor(seg_options, tmp_path):
    run('tools/analysis/browse_dataset.py', SEGMENTOR, '--output-dir', tmp_path, '--not-show',
        *seg_options)  # fmt: skip
    assert len(list(tmp_path.rglob('*.jpg'))) == 8


def test_plot_logs(detector, segmentor, tmp_path):
    out = tmp_path / 'curves.png'
    printed = run('tools/analysis/plot_logs.py', detector, segmentor, '--out', out)
    assert str(out) in printed
    assert Image.open(out).width > 300
    run('tools/analysis/plot_logs.py', detector, '--out', out, '--keys', 'loss', 'coco/bbox_mAP')
    printed = run('tools/analysis/plot_logs.py', detector, '--out', out, '--keys', 'los', code=1)
    assert 'no log has los; there are' in printed


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        ('get_flops', ['configs/nothing.py']),
        ('print_config', ['configs/nothing.py']),
        ('browse_dataset', ['configs/nothing.py']),
        ('plot_logs', ['configs', '--out', 'x.png']),
    ],
)
def test_bad_arguments_are_one_sentence(tool, arguments):
    printed = run(f'tools/analysis/{tool}.py', *arguments, code=1)
    assert arguments[0] in printed
    assert len(printed.strip().splitlines()) == 1
