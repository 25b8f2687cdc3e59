"""tools/make_demo_data.py: the files it writes, and what it never replaces."""

import json
import shutil
import sys

import cv2
import make_demo_data as demo
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from commands import run

skimage = pytest.importorskip('skimage')
TINY = (
    '--train', '4', '--val', '2', '--size', '64',
    '--imagenet-train', '8', '--imagenet-val', '4', '--imagenet-size', '48',
)  # fmt: skip
SPLITS = (('train', 'training', 4), ('val', 'validation', 2))


def make(out, *arguments):
    demo.main(['--out', str(out), *TINY, *arguments])
    return out


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp('made') / 'demo')


def rejected(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        demo.main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_same_arguments_give_the_same_bytes(made, tmp_path):
    run('tools/make_demo_data.py', '--out', tmp_path / 'demo', *TINY)
    assert contents(tmp_path / 'demo') == contents(made)
    assert [path.name for path in tmp_path.iterdir()] == ['demo']  # nothing temporary is left


def test_longer_splits_begin_with_the_same_images(made, tmp_path):
    longer = contents(make(tmp_path / 'demo', '--train', '6', '--imagenet-train', '10'))
    for name, content in contents(made).items():
        assert longer[name] == content or name.endswith('.json')
    assert sum(name.startswith('coco/train2017/') for name in longer) == 6
    assert sum(name.startswith('imagenet/train/') for name in longer) == 10


def test_seeds_differ(made, tmp_path):
    other = contents(make(tmp_path / 'demo', '--seed', '1'))
    first = contents(made)
    assert other.keys() == first.keys()
    images = [name for name in first if name.endswith('.jpg')]
    assert len(images) == 12 + 12
    assert not any(other[name] == first[name] for name in images)


@pytest.mark.parametrize(('split', 'ade_split', 'count'), SPLITS)
def test_layouts_agree(made, split, ade_split, count):
    coco = COCO(str(made / f'coco/annotations/instances_{split}2017.json'))
    assert [category['name'] for category in coco.dataset['categories']] == list(demo.CLASSES)
    assert len(coco.imgs) == count
    ids = set()
    for number, (image_id, image) in enumerate(coco.imgs.items(), start=1):
        path = made / f'coco/{split}2017' / image['file_name']
        name = f'ADE_{split}_{number:08}'
        linked = made / f'ade20k/images/{ade_split}/{name}.jpg'
        assert linked.read_bytes() == path.read_bytes()
        assert cv2.imread(str(path)).shape == (image['height'], image['width'], 3) == (64, 64, 3)
        path = made / f'ade20k/annotations/{ade_split}/{name}.png'
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (64, 64)
        assert labels.dtype == np.uint8
        sure = labels != 0
        assert 0 < (~sure).mean() < 0.5

        covered = np.zeros((64, 64), bool)
        annotations = coco.imgToAnns[image_id]
        assert 1 <= len(annotations) <= 4
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            assert annotation['area'] == mask.sum() > 0
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert annotation['bbox'] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
            assert annotation['iscrowd'] == 0
            assert all(len(polygon) >= 6 for polygon in annotation['segmentation'])
            assert (labels[mask & sure] == annotation['category_id'] + 1).all()
            covered |= mask
            ids.add(annotation['id'])
        assert (labels[~covered & sure] == 1).all()
    assert len(ids) == len(coco.anns)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_panoptic_segments_are_the_instances(made, split):
    folder = made / 'coco/annotations'
    content = json.loads((folder / f'panoptic_{split}2017.json').read_text())
    coco = COCO(str(folder / f'instances_{split}2017.json'))
    names = {category['id']: category['name'] for category in content['categories']}
    assert list(names.values()) == [*demo.CLASSES, 'background']
    assert [category['isthing'] for category in content['categories']] == [1] * 4 + [0]
    assert content['images'] == coco.dataset['images']
    for image in content['annotations']:
        ids = cv2.imread(str(folder / f'panoptic_{split}2017' / image['file_name']))[..., 2]
        segments = image['segments_info']
        assert sorted(np.unique(ids).tolist()) == sorted(each['id'] for each in segments)
        assert [each['area'] for each in segments] == [(ids == e['id']).sum() for e in segments]
        things = [each for each in segments if names[each['category_id']] != 'background']
        for segment, annotation in zip(things, coco.imgToAnns[image['image_id']], strict=True):
            assert segment['category_id'] == annotation['category_id']
            mask = coco.annToMask(annotation).astype(bool)
            assert (mask & (ids == segment['id'])).sum() > 0.95 * mask.sum()


def test_scenes_of_the_reported_results(made):
    """Category and box of every annotation; other random numbers would change all of them."""
    expected = [
        [4, 37, 31, 24, 21], [3, 19, 10, 29, 29], [2, 40, 38, 21, 20], [1, 12, 32, 30, 30],
        [1, 35, 10, 24, 25], [4, 27, 31, 22, 24], [3, 35, 35, 29, 29], [2, 38, 3, 26, 24],
        [4, 20, 20, 31, 32],
    ]  # fmt: skip
    content = json.loads((made / 'coco/annotations/instances_train2017.json').read_text())
    assert [[a['category_id'], *a['bbox']] for a in content['annotations']] == expected


@pytest.mark.parametrize(('split', 'each'), [('train', 2), ('val', 1)])
def test_images_of_one_shape_are_in_class_folders(made, split, each):
    root = made / 'imagenet' / split
    assert sorted(path.name for path in root.iterdir()) == sorted(demo.CLASSES)
    for name in demo.CLASSES:
        files = list((root / name).iterdir())
        assert len(files) == each
        assert all(cv2.imread(str(file)).shape == (48, 48, 3) for file in files)


@pytest.mark.parametrize('label', range(len(demo.CLASSES)))
def test_wanted_shapes_are_drawn(label):
    photo = np.zeros((200, 200, 3), np.uint8)
    for seed in range(5):
        image, instances = demo.draw_scene(np.random.default_rng(seed), photo, 96, [label])
        assert [found for found, _ in instances] == [label]
        mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(instances[0][1], 96, 96)))
        drawn = image.max(axis=2) > 0
        assert drawn[mask == 1].mean() > 0.99
        assert not drawn[cv2.dilate(mask, np.ones((5, 5))) == 0].any()


def test_shapes_look_like_their_class():
    """Every class fills its own share of its bounding circle, at any angle."""
    shares = {'circle': 1, 'square': 2 / np.pi, 'triangle': 0.413, 'star': 0.393}
    photo = np.zeros((200, 200, 3), np.uint8)
    seen = set()
    for seed in range(40):
        _, instances = demo.draw_scene(np.random.default_rng(seed), photo, 128)
        if len(instances) > 1:
            continue
        label, outlines = instances[0]
        corners = np.array(outlines[0], np.float32).reshape(-1, 2)
        if corners.min() < 1 or corners.max() > 127:  # cut off by the border
            continue
        _, radius = cv2.minEnclosingCircle(corners)
        share = cv2.contourArea(corners) / (np.pi * radius**2)
        assert share == pytest.approx(shares[demo.CLASSES[label]], rel=0.06)
        seen.add(label)
    assert len(seen) >= 3


def test_holes_stay_holes():
    mask = np.zeros((64 * demo.SCALE,) * 2, np.uint8)
    cv2.circle(mask, (120, 130), 100, 1, -1)
    cv2.circle(mask, (100, 140), 30, 0, -1)
    cv2.circle(mask, (160, 120), 20, 0, -1)
    outlines = demo.polygons(mask)
    traced = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, 64, 64)))
    expected = cv2.resize(mask * 1.0, (64, 64), interpolation=cv2.INTER_AREA)
    assert not traced[expected == 0].any()
    assert traced[expected == 1].all()


def test_parts_of_the_photographs_are_disjoint():
    photos = demo.backgrounds()
    for name, train, val in zip(demo.PHOTOGRAPHS, photos['train'], photos['val'], strict=True):
        whole = cv2.imread(f'{skimage.data_dir}/{name}')
        np.testing.assert_array_equal(np.concatenate([train, val], axis=1), whole)
        assert min(*train.shape[:2], *val.shape[:2]) > 100


def test_second_call_does_nothing(tmp_path, capsys):
    out = make(tmp_path / 'demo')
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    make(out)
    assert 'nothing to do' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before


def test_own_folders_are_replaced(made, tmp_path):
    out = tmp_path / 'demo'
    out.mkdir()
    assert contents(make(out)) == contents(made)
    # The first version had other arguments and no third layout.
    shutil.rmtree(out / 'imagenet')
    card = json.loads((out / 'demo.json').read_text())
    del card['imagenet_classes']
    card |= {'tool': 'make_demo_data 1', 'arguments': {'train': 4, 'val': 2, 'size': 64, 'seed': 0}}
    (out / 'demo.json').write_text(json.dumps(card))
    assert contents(make(out)) == contents(made)
    make(out, '--seed', '3', '--train', '7')
    assert contents(make(out)) == contents(made)
    assert [path.name for path in tmp_path.iterdir()] == ['demo']


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('--train', '0'),
        ('--val', '-2'),
        ('--size', '16'),
        ('--seed', '-1'),
        ('--train', 'many'),
        ('--imagenet-train', '3'),
        ('--imagenet-val', '0'),
        ('--imagenet-size', '2000'),
    ],
)
def test_bad_numbers_are_rejected(tmp_path, capsys, option, value):
    message = rejected(capsys, '--out', tmp_path / 'demo', option, value)
    assert option in message.splitlines()[-1]
    assert value in message.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_files_as_out_are_rejected(tmp_path, capsys):
    out = tmp_path / 'taken'
    out.write_text('mine')
    assert str(out) in rejected(capsys, '--out', out, *TINY)
    assert str(out / 'below') in rejected(capsys, '--out', out / 'below', *TINY)
    assert out.read_text() == 'mine'


@pytest.mark.parametrize('name', ['notes.txt', 'demo.json'])
def test_other_folders_are_not_replaced(tmp_path, capsys, name):
    out = tmp_path / 'work'
    out.mkdir()
    (out / name).write_text('[1]')
    assert 'choose another --out' in rejected(capsys, '--out', out, *TINY)
    assert contents(out) == {name: b'[1]'}


def test_folders_with_added_files_are_not_replaced(tmp_path, capsys):
    out = make(tmp_path / 'demo')
    (out / 'weights.pth').write_text('precious')
    before = contents(out)
    make(out)  # the same arguments: nothing to do
    assert 'choose another --out' in rejected(capsys, '--out', out, *TINY, '--seed', 5)
    assert contents(out) == before


def test_interrupted_runs_change_nothing(tmp_path, monkeypatch):
    out = make(tmp_path / 'demo')
    before = contents(out)
    write_scenes = demo.write_scenes

    def interrupted(root, split, *rest):
        if split == 'val':
            raise KeyboardInterrupt
        write_scenes(root, split, *rest)

    monkeypatch.setattr(demo, 'write_scenes', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(out, '--seed', '2')
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ['demo']


def test_missing_scikit_image_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'skimage', None)
    with pytest.raises(SystemExit, match='pip install scikit-image'):
        make(tmp_path / 'demo')
    assert not list(tmp_path.iterdir())
