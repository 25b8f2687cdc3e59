"""tools/export.py and tools/onnx_demo.py, as docs/deployment.md shows them."""

import ast
import json
import re
import runpy
import shlex

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from commands import ROOT, run

pytest.importorskip('onnx', reason='the extra "export" is not installed')
pytest.importorskip('onnxruntime', reason='the extra "export" is not installed')

import mmcv
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from onnx_demo import FONT, label, paste, prepare, read

import mmatm  # noqa: F401  registers ATMNet
from mmatm.export import ExportError
from mmatm.export.verify import paste as paste_in_torch
from mmatm.packaged import find_config

EXPORT = 'tools/export.py'


def checkpoint(name, path):
    """A file with random weights."""
    cfg = Config.fromfile(find_config(name))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=dict()), path)
    return path


@pytest.fixture(scope='module')
def segmentor_file(tmp_path_factory):
    pytest.importorskip('mmseg')
    return checkpoint('fpn_atmnet_xt_demo', tmp_path_factory.mktemp('weights') / 'seg.pth')


def test_a_segmentor_from_config_to_drawing(demo_data, segmentor_file, tmp_path):
    out = tmp_path / 'model.onnx'
    run(EXPORT, 'fpn_atmnet_xt_demo', segmentor_file, '--out', out, '--no-verify')
    again = run(EXPORT, 'fpn_atmnet_xt_demo', segmentor_file, '--out', out, code=1)
    assert again.strip() == f'{out} exists: pass --force to overwrite it'
    images = demo_data / 'ade20k' / 'images' / 'validation'
    (tmp_path / 'text.jpg').write_text('no image')
    demo = ['tools/onnx_demo.py', out, images, tmp_path / 'text.jpg', '--out-dir',
            tmp_path / 'found', '--threads', 1]  # fmt: skip
    printed = run(*demo, code=1)
    assert f'{tmp_path}/text.jpg is skipped: cannot identify image file' in printed
    results = sorted((tmp_path / 'found').glob('*.json'))
    assert len(results) == 4
    shares = json.loads(results[0].read_text())['shares']
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
    assert Image.open(results[0].with_suffix('.png')).size == (64, 64)
    results[0].write_text('mine')
    assert '--force' in run(*demo, code=1).splitlines()[-1]
    assert results[0].read_text() == 'mine'
    blocked = results[1].with_suffix('.png')
    blocked.unlink()
    blocked.mkdir()
    printed = run(*demo, '--force', code=1)
    assert f"Is a directory: '{blocked}'" in printed
    assert 'Traceback' not in printed
    assert json.loads(results[0].read_text())['shares'] == shares


def test_commands_in_the_documentation(demo_data, tmp_path):
    """They run as they are, but for the checkpoints, which are random here."""
    pytest.importorskip('mmdet')
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'demo').symlink_to(demo_data)
    text = (ROOT / 'docs' / 'deployment.md').read_text().replace('\\\n', ' ')
    lines = re.findall(r'^    mmatm (export|onnx-demo) (.+)$', text, re.M)
    assert len(lines) >= 3
    for command, rest in lines:
        words = shlex.split(rest)
        for weights in (tmp_path / word for word in words if word.endswith('.pth')):
            weights.parent.mkdir(parents=True, exist_ok=True)
            checkpoint(words[0], weights)
        printed = run('mmatm', command, *words, cwd=tmp_path)
        assert ('mIoU: onnxruntime' in printed) == ('--verify-data' in words)
    found = [json.loads(f.read_text()) for f in (tmp_path / 'found').glob('*.json')]
    assert len(found) == 4
    assert any('area' in item for image in found for item in image['objects'])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--out', 'missing/a.onnx'], 'the folder of --out does not exist: missing'),
        (['--out', 'a.pt'], '--out must end in .onnx'),
        (['--out', 'a.onnx', '--opset', 9], '--opset must be 17 to 20, but is 9'),
        (['--out', 'a.onnx', '--fp16'], '--fp16 is not supported: '),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message, segmentor_file):
    printed = run(EXPORT, 'fpn_atmnet_xt_demo', segmentor_file, *arguments, code=1)
    assert message in printed
    assert len(printed.strip().splitlines()) == 1


def test_checkpoints_that_cannot_be_used(segmentor_file, tmp_path):
    out = ['--out', tmp_path / 'a.onnx']
    printed = run(EXPORT, 'fpn_atmnet_xt_demo', 'none.pth', *out, code=1)
    assert 'checkpoint none.pth does not exist' in printed
    printed = run(EXPORT, 'upernet_atmnet_xt_demo', segmentor_file, *out, code=1)
    assert 'decode_head' in printed.splitlines()[-1]
    printed = run(EXPORT, 'fpn_atmnet_xt_demo', segmentor_file, *out, '--cfg-options',
                  'model.type=EncoderDecode', code=1)  # fmt: skip
    assert 'type EncoderDecode,' in printed.splitlines()[-1]
    assert not list(tmp_path.iterdir())
    (tmp_path / 'a.onnx.data').touch()
    printed = run(EXPORT, 'fpn_atmnet_xt_demo', segmentor_file, *out, code=1)
    assert printed.strip() == f'{tmp_path}/a.onnx.data exists: pass --force to overwrite it'


@pytest.mark.parametrize('agrees', [True, False])
def test_older_files_stay_until_new_ones_are_right(agrees, segmentor_file, tmp_path, monkeypatch):
    def verify(out, *_):
        assert out.stat().st_size > 1e6
        if not agrees:
            raise ExportError('numbers differ')

    main = runpy.run_path(str(ROOT / EXPORT))['main'].__wrapped__
    monkeypatch.setitem(main.__globals__, 'verify', verify)
    out, old = tmp_path / 'a.onnx', [tmp_path / 'a.onnx', tmp_path / 'a.onnx.data']
    for file in old:
        file.write_text('older')
    words = ['export', 'fpn_atmnet_xt_demo', str(segmentor_file), '--out', str(out), '--force']
    monkeypatch.setattr('sys.argv', words)
    if agrees:
        main()
        assert [*tmp_path.iterdir()] == [out]
        return
    with pytest.raises(SystemExit, match='numbers differ'):
        main()
    assert sorted(tmp_path.iterdir()) == old
    assert {file.read_text() for file in old} == {'older'}


def test_a_checkpoint_is_no_exported_model(demo_data, segmentor_file):
    images = demo_data / 'ade20k' / 'images' / 'validation'
    printed = run('tools/onnx_demo.py', segmentor_file, images, code=1)
    assert f'{segmentor_file} must be an .onnx file of tools/export.py' in printed.splitlines()[-1]


def test_images_are_not_replaced_by_results(segmentor_file, tmp_path):
    Image.new('RGB', (64, 64)).save(tmp_path / 'image.png')
    before = (tmp_path / 'image.png').read_bytes()
    printed = run('tools/onnx_demo.py', segmentor_file, tmp_path, '--out-dir', tmp_path, '--force',
                  code=1)  # fmt: skip
    assert f'{tmp_path}/image.png would be overwritten' in printed.splitlines()[-1]
    assert (tmp_path / 'image.png').read_bytes() == before


def test_results_of_one_name_would_replace_each_other(demo_data, segmentor_file, tmp_path):
    image = next(demo_data.glob('ade20k/images/validation/*'))
    copies = [tmp_path / folder / image.name for folder in 'ab']
    for copy in copies:
        copy.parent.mkdir()
        copy.write_bytes(image.read_bytes())
    printed = run('tools/onnx_demo.py', segmentor_file, *copies, '--out-dir', tmp_path / 'found',
                  code=1)  # fmt: skip
    assert all(str(copy) in printed for copy in copies)
    assert not (tmp_path / 'found').exists()


def test_the_demo_stands_alone():
    tree = ast.parse((ROOT / 'tools' / 'onnx_demo.py').read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    standard = {'argparse', 'colorsys', 'json', 'sys', 'pathlib', 'typing'}
    assert names - standard == {'numpy', 'onnxruntime', 'PIL'}


@pytest.mark.parametrize('size', [(100, 75), (64, 200)])
@pytest.mark.parametrize(
    'step',
    [
        dict(type='Resize', scale=(133, 80), keep_ratio=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=False),
        dict(type='ResizeEdge', scale=56, backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=50),
    ],
)
def test_images_are_prepared_as_mm_does(size, step):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = np.asarray(prepare(Image.fromarray(pixels), step))
    height, width = size
    if step['type'] == 'CenterCrop':
        top, left = ((s - 50) // 2 for s in size)
        expected = pixels[top : top + 50, left : left + 50]
    elif step['type'] == 'ResizeEdge':
        short = min(size)
        new = int(56 * width / short), int(56 * height / short)
        expected = mmcv.imresize(pixels, new, interpolation='bicubic', backend='pillow')
    elif step['keep_ratio']:
        expected = mmcv.imrescale(pixels, step['scale'])
    else:
        expected = mmcv.imresize(pixels, step['scale'])
    assert found.shape == expected.shape
    assert abs(found.astype(int) - expected).max() <= 1


@pytest.mark.skipif(FONT.getname()[0] != 'DejaVu Sans', reason='needs the font DejaVu Sans')
def test_umlauts_are_drawn():
    drawn = []
    for text in 'äö':
        image = Image.new('RGB', (20, 20))
        label(ImageDraw.Draw(image), (2, 2), text, (0, 0, 0))
        drawn.append(image.tobytes())
    assert drawn[0] != drawn[1]


def test_sixteen_bits_are_read_as_by_mm(tmp_path):
    file = tmp_path / 'image.png'
    Image.fromarray(np.arange(0, 65536, 100, dtype=np.uint16)[:640].reshape(16, 40)).save(file)
    difference = np.asarray(read(file)).astype(int) - mmcv.imread(str(file))
    assert abs(difference).max() <= 1


def test_masks_are_pasted_as_in_torch():
    masks = torch.rand(1, 28, 28)
    boxes = torch.tensor([[3.2, -2.0, 40.5, 31.0]])
    expected = paste_in_torch(masks, boxes, (30, 44), 0.5)[0]
    found = paste(masks[0].numpy(), boxes[0].numpy(), 44, 30) >= 0.5
    assert (found != expected.numpy()).mean() < 1e-3
