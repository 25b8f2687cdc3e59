"""Mutated COCO annotations: the checker names the problem, or mmdet's dataset loads them."""

import copy
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import prepare_data
import pytest
from fuzz.cases import cases
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import init_default_scope

pytest.importorskip('mmdet')


def valid():
    """Two images of 24 x 32 pixels with three objects of two classes."""
    square = [2.0, 3.0, 12.0, 3.0, 12.0, 13.0, 2.0, 13.0]
    return dict(
        info={},
        images=[dict(id=i, file_name=f'{i}.png', height=24, width=32) for i in (1, 2)],
        categories=[dict(id=1, name='circle'), dict(id=7, name='square')],
        annotations=[
            dict(id=i, image_id=1 + i % 2, category_id=(1, 7)[i % 2], bbox=[2, 3, 10, 10],
                 area=100.0, iscrowd=0, segmentation=[square])
            for i in range(3)
        ],
    )  # fmt: skip


# Lists and dicts are new each time, because a later mutation may change them.
WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.integers(2**62, 2**70),
    st.floats(allow_nan=True, allow_infinity=True), st.text(max_size=3),
    st.builds(list), st.builds(dict), st.builds(lambda: [[]]),
    st.lists(st.floats(-50, 50), max_size=7),
)  # fmt: skip


def places(content, path=()):
    """Paths to every value in nested dicts and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


@st.composite
def mutated(draw):
    """Annotations in which up to three values were replaced, removed or duplicated."""
    content = valid()
    for _ in range(draw(st.integers(0, 3))):
        found = list(places(content))
        if not found:
            break
        *path, key = draw(st.sampled_from(found))
        owner = content
        for step in path:
            owner = owner[step]
        how = draw(st.sampled_from(['replace', 'replace', 'remove', 'double']))
        if how == 'replace':
            owner[key] = draw(WRONG)
        elif how == 'remove':
            del owner[key]
        elif isinstance(owner, list):
            owner.append(copy.deepcopy(owner[key]))
    return content


def write(root, text):
    """A COCO folder whose two splits have the same annotations."""
    (root / 'annotations').mkdir()
    for split in prepare_data.COCO_COUNTS:
        (root / split).mkdir()
        for i in (1, 2):
            cv2.imwrite(str(root / split / f'{i}.png'), np.full((24, 32, 3), 9, np.uint8))
        (root / 'annotations' / f'instances_{split}.json').write_text(text)


PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.Resize', scale=(16, 16), keep_ratio=True),
    dict(type='mmdet.PackDetInputs'),
]


def load_all(root, classes):
    """Load every image with mmdet's dataset, as in training."""
    from mmdet.datasets import CocoDataset

    init_default_scope('mmdet')
    dataset = CocoDataset(
        data_root=str(root), ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'), metainfo=dict(classes=classes),
        pipeline=[], filter_cfg=dict(filter_empty_gt=True),
    )  # fmt: skip
    from mmdet.registry import TRANSFORMS

    transforms = [TRANSFORMS.build(t) for t in PIPELINE]
    for i in range(len(dataset)):
        item = dataset.get_data_info(i)
        for transform in transforms:
            item = transform(item)
        boxes = item['data_samples'].gt_instances.bboxes
        assert boxes.tensor.isfinite().all()


def check(text):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, text)
        problems = list(prepare_data.check_coco(root, subset=True, samples=0))
        assert all(str(problem) for problem in problems)
        if not any(problem.is_fatal for problem in problems):
            load_all(root, [c['name'] for c in json.loads(text)['categories']])
        return problems


def test_valid_annotations_have_no_problem():
    assert check(json.dumps(valid())) == []


@given(mutated())
@cases(50)
def test_what_passes_the_checker_loads(content):
    check(json.dumps(content))


@given(st.integers(0, 10**6), st.integers(0, 7), st.booleans())
@cases(10)
def test_broken_json_is_named(place, bit, cut):
    text = bytearray(json.dumps(valid()).encode())
    place %= len(text)
    if cut:
        del text[place:]
    else:
        text[place] ^= 1 << bit
    check(text.decode('latin-1'))
