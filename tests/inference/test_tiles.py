"""Merging the predictions for tiles."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from pycocotools.mask import encode
from torch.nn import functional

pytest.importorskip('mmdet')
from mmatm.inference.tiles import grid, merge_logits, merge_objects, positions


@pytest.mark.parametrize('length', [1, 63, 64, 65, 100, 128, 500])
@pytest.mark.parametrize('overlap', [0, 0.25, 0.9])
def test_tiles_cover_the_image(length, overlap):
    starts = positions(length, 64, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(length - 64, 0)
    assert len(set(starts)) == len(starts)
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= max(64 * (1 - overlap), 1) for step in steps)


def test_logits_are_averaged_where_tiles_overlap():
    torch.manual_seed(0)
    shape, size = (50, 70), 32
    places = grid(shape, size, 0.3)
    tiles = torch.randn(len(places), 4, size, size)
    total, count = torch.zeros(4, *shape), torch.zeros(shape)
    for tile, (y, x) in zip(tiles, places, strict=True):
        padding = (x, shape[1] - x - size, y, shape[0] - y - size)
        total += functional.pad(tile, padding)
        count += functional.pad(torch.ones(size, size), padding)
    expected = (total / count).argmax(0)
    assert torch.equal(merge_logits(tiles, places, shape, 0.5)[0], expected)
    only = merge_logits(tiles[:, :1].sigmoid(), places, shape, 0.5)[0]
    assert set(only.unique().tolist()) == {0, 1}


def sample(*objects):
    """A prediction of boxes, each with a score and a label."""
    from mmdet.structures import DetDataSample

    boxes, scores, labels = zip(*objects, strict=True) if objects else ([], [], [])
    found = InstanceData(
        bboxes=torch.tensor(boxes).float().view(-1, 4),
        scores=torch.tensor(scores).float(),
        labels=torch.tensor(labels).long(),
    )
    return DetDataSample(pred_instances=found)


def test_objects_at_the_edges_of_tiles():
    places = [(0, 0), (0, 50)]  # tiles of 100 pixels in an image of 150
    left = sample(
        ((10, 10, 40, 40), 0.9, 0),
        ((60, 10, 90, 40), 0.8, 0),  # both tiles show it
        ((70, 50, 100, 90), 0.95, 1),  # cut: the right tile shows it whole
        ((70, 50, 100, 90), 0.6, 2),  # cut too, but nothing of its class covers it
    )
    right = sample(((11, 10, 40, 40), 0.7, 0), ((20, 50, 98, 90), 0.5, 1))
    nms = dict(type='nms', iou_threshold=0.5)
    merged = merge_objects([left, right], places, (100, 150), 100, nms).pred_instances
    found = sorted((*box, label) for box, label in zip(
        merged.bboxes.int().tolist(), merged.labels.tolist(), strict=True
    ) for box in [tuple(box)])  # fmt: skip
    assert found == [
        (10, 10, 40, 40, 0),
        (60, 10, 90, 40, 0),
        (70, 50, 100, 90, 2),
        (70, 50, 148, 90, 1),
    ]
    empty = merge_objects([sample(), sample()], places, (100, 150), 100, nms)
    assert len(empty.pred_instances) == 0


@pytest.mark.parametrize('place', [(0, 0), (0, 30), (7, 5)])
@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
def test_masks_move_with_their_tiles(place, share):
    draw = np.random.default_rng(0)
    tile = np.asfortranarray(draw.random((20, 30)) < share, np.uint8)
    canvas = np.zeros((20 + place[0], 60), np.uint8, order='F')
    canvas[place[0] :, place[1] : place[1] + 30] = tile
    one = sample(((1, 1, 9, 9), 0.9, 0))
    one.pred_instances.masks = [encode(tile)]
    merged = merge_objects([one], [place], canvas.shape, 30, dict(type='nms', iou_threshold=0.5))
    assert merged.pred_instances.masks == [encode(canvas)]


def test_soft_nms_lowers_the_scores_of_objects_in_two_tiles():
    box = (60, 10, 90, 40)
    samples = [sample((box, 0.9, 0)), sample(((15, 10, 40, 40), 0.8, 0))]
    samples[0].pred_panoptic_seg = PixelData()  # of one tile
    nms = dict(type='soft_nms', iou_threshold=0.5, min_score=0.01)
    merged = merge_objects(samples, [(0, 0), (0, 50)], (100, 150), 100, nms)
    assert merged.pred_instances.bboxes.tolist() == [list(box), [65, 10, 90, 40]]
    assert merged.pred_instances.scores[1] < 0.2
    assert 'pred_panoptic_seg' not in merged
