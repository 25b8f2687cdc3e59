"""Counts by score, sizes, images and colours."""

import numpy as np
import pytest
from PIL import Image

from mmatm.report import images
from mmatm.report.counts import Counts, Levels, Sizes


def test_levels_agree_with_comparing_to_the_threshold():
    levels = Levels(100)
    scores = [*levels.thresholds, *np.random.default_rng(0).random(500), 0.29, 0.57999999]
    for score, level in zip(scores, levels.of(scores), strict=True):
        assert all((score >= k / 100) == (k <= level) for k in range(101))
    assert levels.of(float('nan')) == -1


def test_counts_at_or_above_a_level():
    counts = Counts(Levels(10), 2)
    counts.positives[:] = 4, 1
    for level in (9, 5, 5, 0):
        counts.right[0, level] += 1
    counts.wrong[1, 3] += 1
    counts.mixed[1, 0][[2, 7]] = 5, 6
    page = counts.to_page()
    assert page['right'][0] == [4, 3, 3, 3, 3, 3, 1, 1, 1, 1, 0]
    assert page['wrong'][1] == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert page['mixed'] == [[1, 0, 2, 5, 7, 6]]
    # 4 of 5 found with one wrong, against 3 of 5 with none wrong
    assert counts.best_level(otherwise=3) == 0
    assert Counts(Levels(10), 2).best_level(otherwise=3) == 3


def test_sizes():
    sizes = Sizes(Levels(10))
    sizes.add([15**2, 16**2, 40**2, 500**2], [-1, 10, 4, 0])
    rows = {row['name']: row for row in sizes.to_page()}
    assert {name: row['total'] for name, row in rows.items() if row['total']} == {
        'below 16 px': 1,
        '16 to 32 px': 1,
        '32 to 64 px': 1,
        '192 px and more': 1,
    }
    assert rows['below 16 px']['found'] == [0] * 11
    assert rows['16 to 32 px']['found'] == [1] * 11
    assert rows['32 to 64 px']['found'] == [1] * 5 + [0] * 6
    assert rows['192 px and more']['found'] == [1] + [0] * 10


def test_palette_of_the_dataset_or_ours():
    assert images.colours({'palette': [(1, 2, 255), (0, 0, 0)]}, 2) == ['#0102ff', '#000000']
    for metainfo in ({}, {'palette': 'random'}, {'palette': [(1, 2, 3)]}):
        assert images.colours(metainfo, 2) == ['#e69f00', '#56b4e9']
    assert len(set(images.colours({}, 150))) == 150


def test_images_fit_the_budget(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    files = [str(tmp_path / f'{i}.png') for i in range(3)]
    for file in files:
        Image.fromarray(noise).save(file)
    assert images.encode(files)[0][1:] == (500, 300)
    monkeypatch.setattr(images, 'BUDGET', 60_000)
    encoded = images.encode(files)
    assert sum(len(src) for src, _, _ in encoded) < 4 / 3 * 60_000 + 300
    assert encoded[0][1:] == (500, 300)  # of the file, which boxes refer to
    Image.fromarray(noise[:1].repeat(6, 1)).save(files[0])
    assert images.encode(files)[0][1:] == (3000, 1)


@pytest.mark.parametrize('side', [20, 300])
def test_outline_encloses_the_mask(side):
    import cv2

    y, x = np.mgrid[:side, :side]
    mask = np.hypot(y - side / 2, x - side / 2) < side / 3
    mask[side // 2, side // 2] = False  # a hole
    path = images.outline(mask)
    assert path.count('M') == path.count('Z') == 2
    drawn = np.zeros((side, side), np.uint8)
    for ring in path.strip('Z').split('Z'):
        points = np.array([p.split(',') for p in ring[1:].split(' ')], float)
        assert (np.abs(points - side / 2) <= side / 3 + 1).all()
        if len(points) > 8:
            cv2.fillPoly(drawn, [np.round(points - 0.5).astype(np.int32)], 1)
    assert np.mean(drawn != mask) < 0.06
    assert images.outline(np.zeros((4, 4))) == ''
