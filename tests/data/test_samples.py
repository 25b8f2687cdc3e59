"""Checks of single samples and of their files."""

import cv2
import numpy as np
import pytest

pytest.importorskip('mmengine')

from mmengine.dataset import Compose

from mmatm.data import CheckedPipeline
from mmatm.data.panoptic import panoptic_map_problem


def test_a_transform_may_ask_for_another_sample():
    assert CheckedPipeline(Compose([lambda data: None, dict]))({}) is None


@pytest.mark.parametrize(
    ('shape', 'problem'),
    [(None, 'cannot be decoded'), ((4, 6), 'three channels'), ((6, 4, 3), '6 x 4 pixels')],
)
def test_panoptic_maps_that_cannot_be_used(shape, problem, tmp_path):
    file = tmp_path / 'map.png'
    file.write_text('no image')
    if shape:
        cv2.imwrite(str(file), np.zeros(shape, np.uint8))
    assert problem in panoptic_map_problem(file, {}, (4, 6))
