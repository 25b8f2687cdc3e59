"""Whole models on very small and very long images, and on many at once."""

import json
import math

import pytest

from commands import DETECTOR, run

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

UPERNET = 'configs/segmentation/upernet_atmnet_xt_demo.py'
ONCE = 64 * 2**20  # bytes: allocators, thread pools, anchors
# A map of the first stage takes 16 bytes per pixel (64 channels at stride 4 in float32), and the
# widest layer of a block five times that. UperNet's last convolution has 256 channels there, which
# are unfolded for its 3 x 3 kernel: 576 bytes.
BACKBONE, HEADS = 512, 2048  # bytes per pixel
# The mask head has maps of 28 x 28 with 64 channels for each of at most 20 objects, 4 MB each.
OBJECTS = 6 * 20 * 28 * 28 * 64 * 4  # bytes per image
BATCHES = [[1, 32, 32], [1, 31, 4096], [1, 4096, 31], [64, 32, 32]]


def predict(config, part):
    printed = run('tests/configs/predict_extreme.py', config, part)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{')]
    assert [line['batch'] for line in lines] == BATCHES
    assert all(prediction['finite'] for line in lines for prediction in line['predictions'])
    return lines


def test_backbone():
    bound = 0
    for line in predict('configs/detection/mask_rcnn_atmnet_xt.py', 'backbone'):
        count, *size = line['batch']
        size = [(side - 3) // 4 + 1 for side in size]
        for level, channels in zip(line['predictions'], (64, 128, 320, 512), strict=True):
            assert level['shape'] == [count, channels, *size]
            size = [(side + 1) // 2 for side in size]
        bound = max(bound, ONCE + BACKBONE * math.prod(line['batch']))
        assert line['memory'] < bound


@pytest.mark.parametrize(('config', 'objects'), [(DETECTOR, OBJECTS), (UPERNET, 0)])
def test_models(config, objects):
    bound = 0
    for line in predict(config, 'model'):
        count, *size = line['batch']
        assert [prediction['shape'] for prediction in line['predictions']] == [size] * count
        assert all(prediction.get('count') != 0 for prediction in line['predictions'])
        bound = max(bound, ONCE + HEADS * math.prod(line['batch']) + objects * count)
        assert line['memory'] < bound
