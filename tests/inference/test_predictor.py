"""mmatm.Predictor: what it takes, holds and returns."""

import functools
import http.server
import json
import threading
import weakref
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from PIL import Image

import mmatm
from commands import DETECTOR, ROOT, SEGMENTOR
from mmatm.checkpoints import CheckpointError
from mmatm.inference import Writer

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
METAINFO = 'test_dataloader.dataset.metainfo'
ONE = dict(classes=['a'], palette=[[9] * 3])
CLASSIFIER = 'configs/classification/atmnet_xt_demo.py'


def checkpoint(config, folder, **changes):
    """A file of random weights, and the config that it fits."""
    cfg = Config.fromfile(ROOT / config)
    init_default_scope(cfg.default_scope)
    cfg.merge_from_dict(changes)
    if cfg.default_scope == 'mmdet':
        cfg.model.test_cfg.rcnn.score_thr = 0.0
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'weights.pth')
    return cfg, folder / 'weights.pth'


@pytest.fixture(scope='module')
def detect(tmp_path_factory):
    return mmatm.Predictor(*checkpoint(DETECTOR, tmp_path_factory.mktemp('detector')), 'cpu')


@pytest.fixture(scope='module')
def segment(tmp_path_factory):
    return mmatm.Predictor(*checkpoint(SEGMENTOR, tmp_path_factory.mktemp('segmentor')), 'cpu')


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def test_arrays_of_a_detector(detect, image):
    (found,) = detect(image)
    assert detect.task == 'detection'
    assert set(found.arrays) == {'boxes', 'scores', 'labels', 'masks'}
    count = len(found.arrays['scores'])
    assert count > 0
    assert found.arrays['boxes'].shape == (count, 4)
    assert found.arrays['masks'].shape == (count, 48, 64)
    assert found.draw(score_thr=0.0).shape == image.shape
    np.testing.assert_array_equal(found.draw(score_thr=1.0), image)
    found.sample.pred_panoptic_seg = PixelData(sem_seg=torch.full((1, 48, 64), 4))  # no segment
    assert found.draw(score_thr=0.0).shape == image.shape
    found.sample.pred_instances = found.sample.pred_instances[:0]
    assert found.arrays['masks'].shape == (0, 48, 64)


def test_arrays_are_float32_in_mixed_precision(detect, image, monkeypatch):
    monkeypatch.setattr(detect, 'fp16', True)
    (found,) = detect(image)
    assert found.arrays['boxes'].dtype == found.arrays['scores'].dtype == np.float32
    assert found.draw(score_thr=0.0).shape == image.shape


def test_images_of_one_row(detect, segment):
    pixels = np.zeros((1, 500, 3), np.uint8)
    assert segment(pixels[:, :1])[0].draw().shape == (1, 1, 3)
    assert segment(pixels)[0].draw().shape == pixels.shape
    with pytest.raises(ValueError, match=r'cannot be resized.*: 000000'):
        detect(pixels)


def test_a_segmentor_of_one_logit(image, tmp_path):
    change = {'model.decode_head.num_classes': 2, 'model.decode_head.out_channels': 1}
    cfg, file = checkpoint(SEGMENTOR, tmp_path, **change)
    cfg.test_dataloader.dataset.metainfo = dict(classes=('no', 'jä'), palette=[[0] * 3, [9] * 3])
    predict = mmatm.Predictor(cfg, file, 'cpu')
    for tile in (None, 32):
        (found,) = predict(image, tile=tile)
        assert found.arrays['label_map'].dtype == np.int64
    with Writer(tmp_path / 'out', predict) as writer:
        writer.write(found)
    shares = json.loads((tmp_path / 'out' / 'predictions.json').read_text())[0]['shares']
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_nothing_is_held_while_streaming(segment):
    frames = []

    def film(count):
        for i in range(count):
            frame = np.full((32, 32, 3), i, np.uint8)
            frames.append(weakref.ref(frame))
            yield frame
            del frame

    names = []
    for found in segment(film(12), stream=True, batch_size=2):
        names.append(found.name)
        alive = sum(frame() is not None for frame in frames)
        assert alive <= 4
        assert len(frames) <= len(names) + 2  # no frame is read long before its turn
    assert names == [f'{i:06}' for i in range(12)]
    assert 'seg_logits' not in found.sample


def test_frames_that_cannot_be_read_are_named(segment, tmp_path):
    file = tmp_path / 'film.avi'
    film = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*'MJPG'), 10, (64, 48))
    for i in range(6):
        film.write(np.full((48, 64, 3), 40 * i, np.uint8))
    film.release()
    content = bytearray(file.read_bytes())
    at = -1
    for _ in range(3):  # the third frame
        at = content.index(b'\xff\xd8\xff', at + 1)
    end = content.index(b'\xff\xd8\xff', at + 1) - 12
    content[at:end] = bytes(end - at)
    file.write_bytes(content)
    found = segment(file)
    assert [int(f.name[-6:]) for f in found] == [0, 1, 3, 4, 5]
    assert abs(int(found[2].image.mean()) - 120) < 3
    assert list(segment.skipped) == ['film.avi/000002']
    assert 'frame 2' in segment.skipped['film.avi/000002']

    file.write_bytes(content[: len(content) * 4 // 5])
    assert len(segment(file)) < 5
    assert any('to 5' in problem for problem in segment.skipped.values())


def test_turned_photographs_are_turned_as_for_testing(segment, image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(image).save(tmp_path / 'photo.jpg', exif=exif)
    (found,) = segment(tmp_path / 'photo.jpg')
    assert found.image.shape == (64, 48, 3)
    assert found.arrays['label_map'].shape == (64, 48)


@pytest.fixture
def server(tmp_path):
    """The address of a server of the files in ``tmp_path``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def send_header(self, keyword, value):
            if 'short' in self.path and keyword == 'Content-Length':
                value = int(value) + 9
            super().send_header(keyword, value)

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{http_server.server_port}'
        http_server.shutdown()


def test_addresses(segment, image, server, tmp_path):
    cv2.imwrite(str(tmp_path / 'an image.png'), image)
    (expected,) = segment(image)
    for address in (f'{server}/an%20image.png', (tmp_path / 'an image.png').as_uri()):
        (found,) = segment(address)
        assert found.name == 'an image.png'
        np.testing.assert_array_equal(found.image, image)
        np.testing.assert_array_equal(found.arrays['label_map'], expected.arrays['label_map'])
    assert segment([f'{server}/none.png', tmp_path / 'an image.png'])
    assert '404' in segment.skipped['none.png']
    cv2.imwrite(str(tmp_path / 'short.png'), image)
    assert not segment([f'{server}/short.png', f'{server}/an image.png'])
    assert '9 bytes' in segment.skipped['short.png']
    assert 'cannot be downloaded' in segment.skipped['an image.png']


def test_folders(segment, image, tmp_path):
    for name in ('b.png', 'a.png', 'deep/c.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), image)
    assert [f.name for f in segment(str(tmp_path))] == ['a.png', 'b.png']
    found = segment(tmp_path, recursive=True, batch_size=3)
    assert [f.name for f in found] == ['a.png', 'b.png', 'deep/c.png']


@pytest.mark.parametrize('array', [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8)])
def test_arrays_that_are_no_images(segment, array):
    with pytest.raises(ValueError, match=r'uint8 array .* but is'):
        segment(array)


def test_inputs_that_do_not_exist_or_cannot_be_images(segment, tmp_path):
    for wrong in (Image.new('RGB', (9, 9)), [torch.zeros(9, 9, 3)], None):
        with pytest.raises(TypeError, match='must be a path, URL or array'):
            segment(wrong)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        segment([tmp_path / 'none.png'])
    (tmp_path / 'film.mp4').write_bytes(b'no video')
    assert not segment(tmp_path / 'film.mp4')
    assert 'as a video' in segment.skipped['film.mp4']


@pytest.mark.parametrize('wrong', [dict(batch_size=0), dict(tile=8), dict(overlap=1)])
def test_arguments_that_are_not_allowed(segment, image, wrong):
    with pytest.raises(ValueError, match=f'{next(iter(wrong))} must be'):
        segment(image, **wrong)


def test_a_tile_as_large_as_the_image_changes_nothing(detect, segment, image):
    for predict in (detect, segment):
        whole, tiled = predict(image), predict(image, tile=64)
        for name, expected in whole[0].arrays.items():
            np.testing.assert_array_equal(tiled[0].arrays[name], expected)


def test_tiles_of_a_large_image(detect, segment):
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    (found,) = segment(image, tile=64, batch_size=3)
    assert found.arrays['label_map'].shape == (100, 150)
    (found,) = detect(image, tile=64, overlap=0.5)
    boxes, masks = found.arrays['boxes'], found.arrays['masks']
    assert masks.shape == (len(boxes), 100, 150)
    assert boxes[:, 2].max() > 100  # beyond the first tile
    assert boxes.max(0).tolist() <= [150, 100, 150, 100]
    for (x1, y1, x2, y2), mask in zip(boxes, masks, strict=True):
        y, x = np.nonzero(mask)
        assert not len(x) or (x1 - 1 <= x.min() and x.max() <= x2 + 1)
        assert not len(y) or (y1 - 1 <= y.min() and y.max() <= y2 + 1)
    assert found.draw(0.0).shape == image.shape


def test_names_beyond_ascii_are_drawn(segment, image, monkeypatch):
    (found,) = segment(image)
    drawings = []
    for letter in 'äö':
        monkeypatch.setattr(segment, 'classes', (letter * 3,) * len(segment.classes))
        drawings.append(found.draw())
    assert drawings[0].shape == image.shape
    assert not np.array_equal(*drawings)


def test_classifier(image, tmp_path):
    pytest.importorskip('mmpretrain')
    cfg, file = checkpoint(CLASSIFIER, tmp_path)
    predict = mmatm.Predictor(cfg, file, 'cpu')
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    (found,) = predict(tmp_path / 'a.png')
    assert found.draw().shape == image.shape
    assert found.arrays['scores'].sum() == pytest.approx(1)
    assert len(found.classes) == len(found.arrays['scores']) == 4

    from mmengine.registry import DATASETS

    settings = dict(cfg.test_dataloader.dataset, type='CustomDataset', data_root=str(tmp_path))
    settings.pop('split')
    (tmp_path / 'one').mkdir()
    (tmp_path / 'a.png').rename(tmp_path / 'one' / 'a.png')
    sample = DATASETS.build({**settings, 'metainfo': dict(classes=['one'])})[0]
    batch = dict(inputs=sample['inputs'][None], data_samples=[sample['data_samples']])
    with torch.no_grad():
        (expected,) = predict.model.test_step(batch)
    assert torch.equal(expected.pred_score, torch.from_numpy(found.arrays['scores']))
    with pytest.raises(ValueError, match='whole images'):
        predict(image, tile=64)
    with Writer(tmp_path, predict) as writer:
        writer.write(found)
    (written,) = json.loads((tmp_path / 'predictions.json').read_text())
    assert written['classes'][0] == found.classes[found.arrays['scores'].argmax()]


def test_a_checkpoint_of_another_model(tmp_path):
    _, file = checkpoint(SEGMENTOR, tmp_path)
    with pytest.raises(CheckpointError, match='rpn_head'):
        mmatm.Predictor(ROOT / DETECTOR, file)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(default_scope='mmaction'), 'default_scope must be one of'),
        (dict(test_dataloader=None), 'no test_dataloader.dataset.pipeline'),
        ({'test_dataloader.dataset.pipeline': [dict(type='Resize')]}, 'no LoadImageFromFile'),
        ({METAINFO: dict(_delete_=True)}, '5 classes, but .* names 0'),
        ({METAINFO: ONE}, '5 classes, but .* names 1'),
        ({'model.decode_head.num_classes': 1, METAINFO: ONE}, 'set num_classes=2 and'),
    ],
)
def test_configs_that_are_refused(tmp_path, change, message):
    model = {key: value for key, value in change.items() if key.startswith('model.')}
    cfg, file = checkpoint(SEGMENTOR, tmp_path, **model)
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError, match=message):
        mmatm.Predictor(cfg, file, 'cpu')


def test_folder_whose_images_are_further_down(segment, image, tmp_path):
    (tmp_path / 'inside').mkdir()
    cv2.imwrite(str(tmp_path / 'inside' / 'a.png'), image)
    with pytest.raises(ValueError, match='look into them by --recursive'):
        segment(tmp_path)
    assert len(segment(tmp_path, recursive=True)) == 1


def test_test_set_inside_wrappers(tmp_path):
    cfg, file = checkpoint(SEGMENTOR, tmp_path)
    classes = mmatm.Predictor(cfg, file, 'cpu').classes
    inner = dict(type='RepeatDataset', times=2, dataset=cfg.test_dataloader.dataset)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner])
    assert mmatm.Predictor(cfg, file, 'cpu').classes == classes


def test_equal_names_are_written_apart(segment, image, tmp_path):
    (found,) = segment(image)
    with Writer(tmp_path, segment, vis=False) as writer:
        for name in ('a.jpg', 'a.png', 'a.png', 'a.png'):
            writer.write(replace(found, name=name))
    files = sorted(file.name for file in (tmp_path / 'labels').iterdir())
    assert files == ['a.png', 'a.png.2.png', 'a.png.3.png', 'a.png.png']


@pytest.mark.parametrize(
    ('name', 'width', 'fps'), [('film/000000', 64, 1e6), ('film/000000', 9000, 5), ('a', 66000, 0)]
)
def test_what_no_codec_can_write(segment, tmp_path, monkeypatch, name, width, fps):
    (found,) = segment(np.zeros((1, width, 3), np.uint8))
    monkeypatch.setattr(type(found), 'draw', lambda self, _: self.image)
    with Writer(tmp_path, segment) as writer, pytest.raises(OSError, match=f'of {width}x1 pixels'):
        writer.write(replace(found, name=name, fps=fps))


def test_annotations_that_do_not_fit(detect, image, tmp_path):
    names = detect.classes
    file = tmp_path / 'a.json'
    for classes, message in ((names[1:], f"no category '{names[0]}'"), (names, 'no image 000000')):
        categories = [dict(id=i, name=name) for i, name in enumerate(classes)]
        file.write_text(json.dumps(dict(images=[], categories=categories)))
        with (
            pytest.raises(ValueError, match=message),
            Writer(tmp_path, detect, annotations=file) as w,
        ):
            w.write(detect(image)[0])
        assert list(tmp_path.iterdir()) == [file]


def test_classes_come_from_the_config(detect, segment):
    assert detect.classes == ('circle', 'triangle', 'square', 'star')
    assert Counter(segment.classes)['background'] == 1
