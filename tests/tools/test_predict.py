"""tools/predict.py against tools/test.py, and on everything that it must not stumble over."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from commands import DETECTOR, SEGMENTOR, run

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ANY_SCORE = 'model.test_cfg.rcnn.score_thr=0.0'


@pytest.fixture
def images(tmp_path):
    """A folder of two images, one of them gray, a broken one, a film and a note."""
    folder = tmp_path / 'images'
    folder.mkdir()
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / 'a.jpg')
    Image.fromarray(random.integers(0, 256, (64, 48), np.uint8)).save(folder / 'a.png')
    (folder / 'broken.jpg').write_bytes((folder / 'a.jpg').read_bytes()[:400])
    (folder / 'notes.txt').write_text('left alone')
    film = cv2.VideoWriter(str(folder / 'film.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 5, (64, 48))
    for i in range(3):
        film.write(np.full((48, 64, 3), 80 * i, np.uint8))
    film.release()
    return folder


def test_boxes_and_masks_equal_those_of_test(detector, options, demo_data, tmp_path):
    run(
        'tools/test.py', DETECTOR, detector / 'epoch_1.pth', '--work-dir', tmp_path, *options,
        ANY_SCORE, f'test_evaluator.outfile_prefix={tmp_path / "tested"}',
    )  # fmt: skip
    out = tmp_path / 'out'
    annotations = demo_data / 'coco' / 'annotations' / 'instances_val2017.json'
    known = json.loads(annotations.read_text())
    listed = tmp_path / 'image_info.json'  # like that of COCO's test images
    listed.write_text(json.dumps({key: known[key] for key in ('images', 'categories')}))
    run(
        'tools/predict.py', demo_data / 'coco' / 'val2017', DETECTOR, detector / 'epoch_1.pth',
        '--annotations', listed, '--out-dir', out, '--cfg-options', ANY_SCORE,
    )  # fmt: skip
    for kind in ('bbox', 'segm'):
        expected = json.loads((tmp_path / f'tested.{kind}.json').read_text())
        assert json.loads((out / f'predictions.{kind}.json').read_text()) == expected
        assert len(expected) > 4
        COCO(annotations).loadRes(str(out / f'predictions.{kind}.json'))
    written = json.loads((out / 'images.json').read_text())
    assert {i['id']: i['file_name'] for i in written['images']} == {
        i['id']: i['file_name'] for i in known['images']
    }


def test_label_maps_equal_those_of_test(segmentor, seg_options, demo_data, tmp_path):
    checkpoint = segmentor / 'iter_2.pth'
    run('tools/test.py', SEGMENTOR, checkpoint, '--work-dir', tmp_path,
        '--out', tmp_path / 'tested', *seg_options)  # fmt: skip
    folder = demo_data / 'ade20k' / 'images' / 'validation'
    run('tools/predict.py', folder, SEGMENTOR, checkpoint, '--out-dir', tmp_path, '--no-vis')
    maps = {p.name: np.array(Image.open(p)) for p in (tmp_path / 'tested').iterdir()}
    assert len(maps) == 4
    for name, expected in maps.items():
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / 'labels' / name)), expected)
    first = json.loads((tmp_path / 'predictions.json').read_text())[0]
    found = maps[first['image'].replace('.jpg', '.png')]
    assert first['shares'].get('background', 0) == pytest.approx((found == 1).mean(), abs=1e-6)
    assert not (tmp_path / 'vis').exists()


def test_a_folder_with_everything(detector, images, tmp_path):
    out = tmp_path / 'out'
    command = (
        'tools/image_demo.py', images, DETECTOR, detector / 'epoch_1.pth', '--out-dir', out,
        '--device', 'cpu', '--score-thr', 0.0, '--arrays', '--cfg-options', ANY_SCORE,
    )  # fmt: skip
    printed = run(*command, code=1)
    assert str(images / 'broken.jpg') in printed.splitlines()[-1]
    assert 'Traceback' not in printed
    assert sorted(p.name for p in (out / 'vis').iterdir()) == ['a.jpg', 'a.png.jpg', 'film.avi.mp4']
    assert Image.open(out / 'vis' / 'a.png.jpg').size == (48, 64)
    film = cv2.VideoCapture(str(out / 'vis' / 'film.avi.mp4'))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    arrays = np.load(out / 'arrays' / 'a.npz')
    count = len(arrays['boxes'])
    assert arrays['masks'].shape == (count, 48, 64)
    assert arrays['masks'].dtype == bool
    names = [
        image['file_name'] for image in json.loads((out / 'images.json').read_text())['images']
    ]
    assert names == ['a.jpg', 'a.png', 'film.avi/000000', 'film.avi/000001', 'film.avi/000002']
    found = json.loads((out / 'predictions.bbox.json').read_text())
    assert sum(entry['image_id'] == 1 for entry in found) == count > 0
    assert not list(out.glob('*.part'))

    before = (out / 'predictions.bbox.json').read_bytes()
    printed = run(*command, code=1)
    assert '--force' in printed.strip().splitlines()[-1]
    assert (out / 'predictions.bbox.json').read_bytes() == before
    fewer = 'model.test_cfg.rcnn.max_per_img=1'
    run(*command[:-1], fewer, '--no-vis', '--force', code=1)
    assert (out / 'predictions.bbox.json').read_bytes() != before


@pytest.mark.parametrize(
    'wrong',
    [
        'input', 'config', 'checkpoint', 'empty', 'annotations', 'tile', 'device', 'head', 'type',
        'out', 'score', 'overlap', 'batch', 'order', 'broken', 'onnx',
        'result',
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(wrong, detector, demo_data, tmp_path):
    nothing = tmp_path / 'nothing'
    image = next(demo_data.glob('coco/val2017/*'))
    arguments = {'input': image, 'config': DETECTOR, 'checkpoint': detector / 'epoch_1.pth'}
    more: list = []
    expected = str(nothing)
    if wrong in arguments:
        arguments[wrong] = nothing
    elif wrong == 'empty':
        nothing.mkdir()
        arguments['input'] = nothing
    elif wrong == 'annotations':
        more = ['--annotations', nothing]
    elif wrong == 'tile':
        more, expected = ['--tile', 8], 'at least 32, but is 8'
    elif wrong == 'onnx':
        nothing = nothing.with_suffix('.onnx')
        nothing.touch()
        arguments['checkpoint'], expected = nothing, 'is an exported model'
    elif wrong == 'score':
        more, expected = ['--score-thr', 30], 'from 0 to 1, but is 30'
    elif wrong == 'broken':
        arguments['input'] = expected = str(tmp_path / 'broken.jpg')
        Path(expected).write_bytes(b'not an image')
    elif wrong == 'result':
        arguments['input'] = tmp_path / 'vis' / 'a.jpg'
        arguments['input'].parent.mkdir()
        arguments['input'].touch()
        more, expected = ['--out-dir', tmp_path, '--force'], 'which would be overwritten'
    elif wrong == 'overlap':
        more, expected = ['--overlap', 0.5], '--overlap needs --tile'
    elif wrong == 'batch':
        more = ['--cfg-options', 'test_dataloader.batch_size=two']
        expected = 'at least 1, but is two'
    elif wrong == 'order':
        arguments['input'] = expected = 'mask_rcnn_atmnet_xt_demo'
        expected += ' does not exist; the order is INPUT CONFIG CHECKPOINT'
    elif wrong == 'device':
        more, expected = ['--device', 'toaster'], 'toaster'
    elif wrong == 'type':
        more, expected = ['--cfg-options', 'model.type=MaskRNN'], 'type MaskRNN,'
    elif wrong == 'out':
        nothing.touch()
        more, expected = ['--out-dir', nothing / 'out'], f'{nothing}/out cannot be written'
    else:
        more, expected = ['--cfg-options', 'model.roi_head.mask_head.num_classes=7'], 'mask_head'
    out = tmp_path / 'out'
    code = 2 if wrong in ('score', 'overlap', 'tile') else 1
    printed = run('tools/predict.py', *arguments.values(), '--out-dir', out, *more, code=code)
    assert expected in printed.strip().splitlines()[-1]
    assert 'Traceback' not in printed
    assert not list(out.glob('*'))
