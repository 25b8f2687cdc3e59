"""What tools/contact_sheet.py draws of an image, and what it leaves out."""

import pickle

import mmcv
import numpy as np
import pytest
import torch
from contact_sheet import Item, decode, detections, draw_sheet, segmentations
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from pycocotools import mask as coco_mask

from commands import DETECTOR, SEGMENTOR, run

METAINFO = {
    'classes': ('background', 'circle', 'square', 'star'),
    'palette': [(60, 60, 60), (230, 60, 60), (70, 110, 240), (250, 200, 30)],
}
GREEN = (40, 200, 40)
SIZE = 64


def image():
    return np.full((SIZE, SIZE, 3), GREEN, np.uint8)


def item(label, x1=10.0, y1=10.0, x2=50.0, y2=50.0):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[20:40, 20:40] = 1
    return Item(label, mask, np.array([x1, y1, x2, y2]), 0.9)


def colours(artist):
    return np.round(np.array(to_rgb(artist)) * 255).tolist()


def drawn(items):
    """The axes of an image with items, and the pixels of the sheet."""
    figure = draw_sheet([{'prediction': (image(), items)}], METAINFO, 1, 320)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return figure, figure.axes[0], np.asarray(canvas.buffer_rgba())[..., :3]


def test_a_class_has_one_colour():
    figure, axes, _ = drawn([item(3), item(1)])
    fills, outlines = axes.collections[::2], axes.collections[1::2]
    for number, label in enumerate((3, 1)):
        expected = list(METAINFO['palette'][label])
        assert colours(axes.patches[number].get_edgecolor()) == expected
        assert colours(fills[number].get_facecolor()[0]) == expected
        assert colours(outlines[number].get_edgecolor()[0]) == expected
        assert colours(axes.texts[number].get_bbox_patch().get_facecolor()) == expected
        assert axes.texts[number].get_text() == f'{METAINFO["classes"][label]} 0.90'
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ['circle', 'star']
    assert [colours(patch.get_facecolor()) for patch in legend.get_patches()] == [
        list(METAINFO['palette'][label]) for label in (1, 3)
    ]


def test_an_object_keeps_its_own_colours():
    _, axes, pixels = drawn([item(1)])
    box = axes.get_window_extent()
    left, bottom, scale = box.x0, len(pixels) - box.y0, box.width / SIZE
    inside = pixels[int(bottom - 38 * scale) : int(bottom - 26 * scale)]
    inside = inside[:, int(left + 24 * scale) : int(left + 36 * scale)].reshape(-1, 3)
    assert np.abs(inside.mean(0) - GREEN).max() < 40
    assert (inside.std(0) < 1).all()


@pytest.mark.parametrize('x', [0, 24, 44])
@pytest.mark.parametrize('y', [0, 24, 44])
def test_labels_stay_inside_the_image_and_apart(x, y):
    boxes = (x, y, x + 20, y + 20), (0, 0, SIZE, SIZE)
    _, axes, _ = drawn([item(2, *box) for box in boxes])
    frame = axes.get_window_extent()
    labels = [text.get_window_extent() for text in axes.texts]
    for number, label in enumerate(labels):
        assert frame.x0 - 1 <= label.x0 < label.x1 <= frame.x1 + 1
        assert frame.y0 - 1 <= label.y0 < label.y1 <= frame.y1 + 1
        assert not any(label.overlaps(other) for other in labels[:number])


def test_every_form_of_a_coco_mask_is_read():
    polygon = [[10, 10, 30, 10, 30, 40, 10, 40]]
    packed = coco_mask.merge(coco_mask.frPyObjects(polygon, SIZE, SIZE))
    expected = np.zeros((SIZE, SIZE), np.uint8)
    expected[10:40, 10:30] = 1
    runs = {'size': [SIZE, SIZE], 'counts': [10 * SIZE + 10, *([30, 34] * 19), 30]}
    runs['counts'].append(SIZE * SIZE - sum(runs['counts']))
    for mask in (polygon, packed, runs):
        np.testing.assert_array_equal(decode(mask, SIZE, SIZE), expected)
    assert decode(None, SIZE, SIZE) is None


class Dataset(list):
    """The part of mm's data sets that is read."""

    get_data_info = list.__getitem__


def test_detections_below_the_threshold_are_left_out(tmp_path):
    file, path = tmp_path / 'predictions.pkl', str(tmp_path / 'image.png')
    mmcv.imwrite(image()[..., ::-1], path)
    found = {
        'labels': torch.tensor([2, 1]),
        'scores': torch.tensor([0.8, 0.2]),
        'bboxes': torch.tensor([[1.0, 2.0, 30.0, 40.0], [0.0, 0.0, 9.0, 9.0]]),
    }
    file.write_bytes(pickle.dumps([{'img_id': 7, 'img_path': path, 'pred_instances': found}]))
    truth = [{'bbox_label': 3, 'bbox': [5, 6, 20, 30]}]
    dataset = Dataset([{'img_id': 9, 'instances': []}, {'img_id': 7, 'instances': truth}])
    total, read = detections(dataset, str(file), 0.3)
    assert total == 1
    (pixels, expected), (_, items) = read(0).values()
    np.testing.assert_array_equal(pixels, image())
    assert [(i.label, i.score, i.box.tolist()) for i in expected] == [(3, None, [5, 6, 20, 30])]
    assert [(i.label, i.box.tolist()) for i in items] == [(2, [1, 2, 30, 40])]
    assert items[0].score == pytest.approx(0.8)


def test_ignored_pixels_of_a_label_map_are_left_out(tmp_path):
    paths = [tmp_path / 'image.png', tmp_path / 'truth.png', tmp_path / 'found' / 'image.png']
    truth, found = np.zeros((2, SIZE, SIZE), np.uint8)
    truth[10:20], found[10:30] = 3, 2
    for path, pixels in zip(paths, (image()[..., ::-1], truth, found), strict=True):
        mmcv.imwrite(pixels, str(path))
    info = {'img_path': str(paths[0]), 'seg_map_path': str(paths[1]), 'reduce_zero_label': True}
    total, read = segmentations(Dataset([info]), str(tmp_path / 'found'))
    assert total == 1
    tile = read(0)
    assert list(tile) == ['image', 'ground truth', 'prediction']
    assert [[i.label for i in items] for _, items in tile.values()] == [[], [2], [1]]
    np.testing.assert_array_equal(tile['prediction'][1][0].mask, found == 2)


@pytest.mark.parametrize(
    ('config', 'name', 'said'),
    [
        ('atmnet_xt_demo', 'a.pkl', 'must be that of a detector or a segmentor'),
        (SEGMENTOR, 'none', 'none must be the folder'),
        (SEGMENTOR, '.', '.png does not exist'),
        (DETECTOR, 'a.pkl', 'a.pkl does not hold what'),
    ],
)
def test_predictions_that_cannot_be_read(config, name, said, options, seg_options, tmp_path):
    if config == 'atmnet_xt_demo':
        pytest.importorskip('mmpretrain')
    (tmp_path / 'a.pkl').write_bytes(b'no pickle')
    more = seg_options if config == SEGMENTOR else options
    command = 'tools/contact_sheet.py', config, tmp_path / name, '--out', tmp_path / 'a.png'
    printed = run(*command, '--rows', 1, *more, code=1)
    assert said in printed.splitlines()[-1]
    assert 'Traceback' not in printed
