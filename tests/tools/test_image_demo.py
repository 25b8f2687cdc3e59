"""tools/image_demo.py on images, folders and unreadable files."""

import json

import numpy as np
import pytest
from PIL import Image

from commands import DETECTOR, SEGMENTOR, run

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


@pytest.fixture
def images(tmp_path):
    """A folder of two images, one of them gray, and a file that is not an image."""
    folder = tmp_path / 'images'
    folder.mkdir()
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / 'a.jpg')
    Image.fromarray(random.integers(0, 256, (64, 48), np.uint8)).save(folder / 'b.png')
    (folder / 'broken.jpg').write_bytes(b'not an image')
    (folder / 'notes.txt').write_text('left alone')
    return folder


def test_detector_on_a_folder(detector, images, tmp_path):
    out = tmp_path / 'out'
    printed = run(
        'tools/image_demo.py', images, DETECTOR, detector / 'epoch_1.pth', '--out-dir', out,
        '--device', 'cpu', '--score-thr', 0.0, code=1,
    )  # fmt: skip
    assert f'skipped: {images / "broken.jpg"}' in printed
    assert sorted(p.name for p in (out / 'vis').iterdir()) == ['a.jpg', 'b.png']
    assert Image.open(out / 'vis' / 'a.jpg').size == (64, 48)
    found = json.loads((out / 'preds' / 'a.json').read_text())
    count = len(found['scores'])
    assert len(found['bboxes']) == len(found['labels']) == len(found['names']) == count
    assert set(found['names']) <= {'circle', 'triangle', 'square', 'star'}


def test_segmentor_on_one_image(segmentor, images, tmp_path):
    out = tmp_path / 'out'
    run(
        'tools/image_demo.py', images / 'b.png', SEGMENTOR, segmentor / 'iter_2.pth',
        '--out-dir', out, '--device', 'cpu',
    )  # fmt: skip
    assert Image.open(out / 'vis' / 'b.png').size == (48, 64)
    labels = np.array(Image.open(out / 'preds' / 'b.png'))
    assert labels.shape == (64, 48)
    shares = json.loads((out / 'preds' / 'b.json').read_text())['shares']
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert shares.get('background', 0) == pytest.approx((labels == 0).mean(), abs=1e-6)


@pytest.mark.parametrize('missing', ['image', 'config', 'checkpoint', 'empty'])
def test_missing_input_is_one_sentence(missing, tmp_path):
    arguments = {'image': 'README.md', 'config': DETECTOR, 'checkpoint': 'README.md'}
    arguments[missing] = tmp_path / 'nothing'
    if missing == 'empty':
        arguments = {**arguments, 'image': tmp_path}
        del arguments['empty']
    printed = run('tools/image_demo.py', *arguments.values(), code=1)
    assert str(tmp_path) in printed.strip().splitlines()[-1]
    assert 'Traceback' not in printed
