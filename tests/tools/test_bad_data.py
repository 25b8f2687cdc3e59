"""All kinds of broken and unusual data; docs/data.md lists the same cases."""

import json
import shutil

import cv2
import numpy as np
import prepare_data
import pytest
from PIL import Image

from commands import DETECTOR, ROOT, SEGMENTOR, run
from mmatm.data import check_coco_annotations, read_coco

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.dataset import Compose, ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS, init_default_scope
from pycocotools import mask as coco_mask

from mmatm.data import CheckedPipeline, DataError, check_samples

SIZE = 96  # of images and of the detector's input, so that nothing is resampled
JPEG = dict(format='JPEG', quality=95)
SQUARE = [20, 20, 60, 20, 60, 60, 20, 60]


def make_image(height=SIZE, width=SIZE):
    """A smooth random RGB image."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def build(config, root, loader='train'):
    """A dataset of a demo config at ``root``, with checks and without random flips."""
    cfg = Config.fromfile(str(ROOT / config))
    init_default_scope(cfg.default_scope)
    settings = cfg[f'{loader}_dataloader'].dataset
    settings.data_root = str(root)
    for transform in settings.pipeline:
        if transform.type == 'RandomFlip':
            transform.prob = 0.0
    dataset = DATASETS.build(settings)
    check_samples(dataset)
    return dataset


def prepared_ade(root):
    """What tools/prepare_data.py says about an ADE20K dataset."""
    return list(map(str, prepare_data.check_ade20k(root, True, 0)))


class Coco:
    """A COCO dataset of one image of ``SIZE`` with a square on it, for tests to damage."""

    def __init__(self, root):
        self.root = root
        self.image = {'id': 7, 'file_name': 'one.jpg', 'height': SIZE, 'width': SIZE}
        self.annotation = {
            'id': 31, 'image_id': 7, 'category_id': 2, 'iscrowd': 0,
            'bbox': [20, 20, 40, 40], 'area': 1600, 'segmentation': [SQUARE],
        }  # fmt: skip
        names = enumerate(('circle', 'triangle', 'square', 'star'), start=1)
        self.content = {
            'images': [self.image],
            'annotations': [self.annotation],
            'categories': [{'id': i, 'name': name} for i, name in names],
        }
        for split in ('train2017', 'val2017'):
            (root / split).mkdir(parents=True)
            Image.fromarray(make_image()).save(root / split / 'one.jpg', **JPEG)
        (root / 'annotations').mkdir()
        self.write()

    @property
    def file(self):
        return self.root / 'train2017' / 'one.jpg'

    def write(self, split=None):
        for name in [split] if split else ('train2017', 'val2017'):
            path = self.root / 'annotations' / f'instances_{name}.json'
            path.write_text(json.dumps(self.content))
        return path

    def instances(self, loader='train'):
        """The packed annotations of the only image."""
        self.write()
        return self.sample(loader)['data_samples']

    def sample(self, loader='train'):
        (sample,) = list(build(DETECTOR, self.root, loader))
        return sample

    def problems(self, masks=True, evaluated=False, classes=None):
        path = self.write()
        found = check_coco_annotations(read_coco(path), path, masks, evaluated, classes)
        return list(map(str, found))

    def prepared(self):
        """What tools/prepare_data.py says about the training split."""
        found = map(str, prepare_data.check_coco(self.root, True, 0))
        return [problem for problem in found if 'train2017' in problem]


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path / 'coco')


@pytest.fixture
def ade(tmp_path):
    """An ADE20K dataset of one image with labels 0 to 5."""
    root = tmp_path / 'ade20k'
    for split in ('training', 'validation'):
        (root / 'images' / split).mkdir(parents=True)
        (root / 'annotations' / split).mkdir(parents=True)
        Image.fromarray(make_image()).save(root / 'images' / split / 'one.jpg', **JPEG)
        labels = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 6
        Image.fromarray(labels.astype(np.uint8)).save(root / 'annotations' / split / 'one.png')
    return root


# Images


def transparent(image):
    image.putalpha(Image.linear_gradient('L').resize(image.size))
    return image


def deep_gray(image):
    return Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)


PNG = dict(format='PNG')


@pytest.mark.parametrize(
    ('convert', 'options'),
    [
        (lambda image: image.convert('L'), JPEG),
        (lambda image: image.convert('LA'), PNG),
        (lambda image: image.quantize(64), PNG),
        (lambda image: image.convert('1'), PNG),
        (lambda image: image.convert('CMYK'), JPEG),
        (transparent, PNG),
        (deep_gray, PNG),
    ],
    ids=['gray', 'gray with alpha', 'palette', 'bilevel', 'CMYK', 'transparent', '16-bit gray'],
)
def test_unusual_images_are_read_as_8_bit_colors(convert, options, coco):
    image = convert(Image.fromarray(make_image()))
    image.save(coco.file, **options)
    if image.mode.startswith('I'):
        expected = np.asarray(image)[..., None].repeat(3, 2) // 257
    else:  # transparency is dropped, not blended with a background
        expected = np.asarray(image.convert('RGB'))
    found = coco.sample()['inputs'].numpy().transpose(1, 2, 0)[..., ::-1].astype(int)
    assert found.shape == (SIZE, SIZE, 3)
    assert np.abs(found - expected).mean() < 2
    assert not coco.prepared()


def test_16_bit_colors_are_scaled_down(coco):
    deep = cv2.imencode('.png', make_image().astype(np.uint16)[..., ::-1] * 257)[1]
    coco.file.write_bytes(deep.tobytes())
    found = coco.sample()['inputs'].numpy().transpose(1, 2, 0)[..., ::-1]
    np.testing.assert_array_equal(found, make_image())


def cut(content):
    return content[: len(content) // 2]


def zero_filled(content):
    """As an interrupted download that reserved the space first."""
    return cut(content) + bytes(len(content) - len(cut(content)))


def nothing(content):
    return b''


def error_page(content):
    return b'<html>404 Not Found</html>'


@pytest.mark.parametrize('damage', [cut, zero_filled, nothing, error_page])
@pytest.mark.parametrize('loader', ['train', 'val'])
def test_damaged_images_are_named(damage, loader, coco, ade):
    file = coco.root / f'{loader}2017' / 'one.jpg'
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=rf'img_id 7.*{file}'):
        build(DETECTOR, coco.root, loader)[0]
    (problem,) = map(str, prepare_data.check_coco(coco.root, True, 0))
    assert problem.startswith(f'broken: {file} ')

    split = {'train': 'training', 'val': 'validation'}[loader]
    target = ade / 'images' / split / 'one.jpg'
    shutil.copy(file, target)
    with pytest.raises(DataError, match=str(target)):
        build(SEGMENTOR, ade, loader)[0]
    (problem,) = prepared_ade(ade)
    assert problem.startswith(f'broken: {target} ')


def test_missing_files_are_named(coco, ade):
    coco.file.unlink()
    with pytest.raises(DataError, match=rf'FileNotFoundError.*{coco.file}'):
        coco.sample()
    assert coco.prepared() == [f'missing: {coco.file}']
    coco.file.symlink_to('nothing')
    (problem,) = coco.prepared()
    assert problem.startswith('broken: ')
    assert str(coco.file) in problem
    with pytest.raises(DataError, match='IsADirectoryError'):
        read_coco(coco.root)
    file = ade / 'annotations' / 'training' / 'one.png'
    file.unlink()
    with pytest.raises(DataError, match=rf'FileNotFoundError.*{file}'):
        build(SEGMENTOR, ade)[0]
    assert f'missing: {file}' in prepared_ade(ade)


def test_a_thumbnail_does_not_pass_for_the_end(coco):
    """A JPEG file inside the header of another has an end marker of its own."""
    thumbnail = coco.file.read_bytes()[:2000] + b'\xff\xd9'
    whole = coco.file.read_bytes()
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    coco.file.write_bytes(whole[:2] + segment + whole[2:])
    coco.sample()
    coco.file.write_bytes(zero_filled(coco.file.read_bytes()))
    with pytest.raises(DataError, match='has no end'):
        coco.sample()
    # Data after the end is ignored, such as the video of a live photo.
    coco.file.write_bytes(whole + b'\xff\xda' + bytes(1000))
    coco.sample()


def test_exif_rotation_is_applied(coco, ade):
    """Annotations must be for the rotated image; others are rejected."""
    tag = Image.Exif()
    tag[0x0112] = 6  # rotated by 90 degrees clockwise
    Image.fromarray(make_image(64, SIZE)).save(coco.file, exif=tag, **JPEG)
    coco.image.update(height=SIZE, width=64)
    found = coco.instances()
    assert found.ori_shape == (SIZE, 64)
    assert not coco.prepared()

    coco.image.update(height=64, width=SIZE)
    with pytest.raises(DataError, match=r'96 x 64 pixels.*for 64 x 96.*EXIF'):
        coco.instances()
    (problem,) = coco.prepared()
    assert f'{coco.file} is 96 x 64 pixels, but the annotations say 64 x 96' in problem

    shutil.copy(coco.file, ade / 'images' / 'training' / 'one.jpg')
    stored = np.ones((64, SIZE), np.uint8)
    labels = ade / 'annotations' / 'training' / 'one.png'
    Image.fromarray(stored).save(labels)
    with pytest.raises(DataError, match=rf'{labels}.*shape \(64, 96\), but the image \(96, 64\)'):
        build(SEGMENTOR, ade)[0]
    (problem,) = prepared_ade(ade)
    assert 'one.jpg is 96 x 64 pixels, but the annotations say 64 x 96' in problem
    Image.fromarray(stored.T.copy()).save(labels)
    build(SEGMENTOR, ade)[0]


@pytest.mark.parametrize('size', [(31, 4096), (4096, 31), (31, 31)])
def test_thin_images_are_evaluated_but_not_trained_on(size, coco):
    """The COCO settings of mmdet exclude images below 32 pixels from training."""
    Image.fromarray(make_image(*size)).save(coco.root / 'val2017' / 'one.jpg', **JPEG)
    coco.image.update(zip(('height', 'width'), size, strict=True))
    coco.annotation.update(bbox=[2, 2, 20, 20], segmentation=[[2, 2, 22, 2, 22, 22, 2, 22]])
    assert coco.instances('val').ori_shape == size
    coco.content['images'].append({**coco.image, 'id': 8, 'height': SIZE, 'width': SIZE})
    coco.content['annotations'].append({**coco.annotation, 'id': 32, 'image_id': 8})
    coco.write()
    dataset = build(DETECTOR, coco.root)
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [8]


# COCO annotations: handled by mmdet


def test_images_without_annotations_are_evaluated_but_not_trained_on(coco):
    coco.content['images'].append({**coco.image, 'id': 8})
    coco.write()
    assert len(build(DETECTOR, coco.root)) == 1
    assert len(build(DETECTOR, coco.root, 'val')) == 2
    assert not coco.prepared()


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (dict(bbox=[20, 20, 0, 40]), 'too small'),
        (dict(bbox=[20, 20, 40, 0.5]), 'too small'),
        (dict(area=0), 'too small'),
        (dict(bbox=[200, 20, 40, 40]), 'no area inside the image'),
        (dict(bbox=[-50, 20, 40, 40]), 'no area inside the image'),
        (dict(bbox=[60, 20, -40, 40]), 'too small'),
        (dict(ignore=True), 'marked to be ignored'),
    ],
)
def test_unusable_annotations_are_left_out_and_reported(change, reason, coco):
    coco.content['annotations'].append({**coco.annotation, **change, 'id': 32})
    found = coco.instances()
    assert len(found.gt_instances) == 1
    assert len(found.ignored_instances) == 0
    (said,) = coco.problems()
    assert said.startswith('note: 1 of 2 annotations of ')
    assert '32 (' in said
    assert reason in said
    assert coco.prepared()[0].startswith('note: 1 of 2')

    coco.annotation.update(change)
    note, rejected = coco.problems()
    assert note.startswith('note: 2 of 2 annotations of ')
    assert rejected.startswith('broken: ')
    assert rejected.endswith('has no usable annotation')


def test_boxes_are_clipped_to_the_image(coco):
    coco.annotation['bbox'] = [60, 20, 100, 40]
    assert coco.instances().gt_instances.bboxes.tensor.tolist() == [[60, 20, SIZE, 60]]
    assert not coco.problems()


def test_polygons_of_two_points(coco):
    """They are ignored in training, but pycocotools cannot read them for evaluation."""
    short = {**coco.annotation, 'segmentation': [[20, 20, 60, 60]], 'id': 32}
    coco.content['annotations'].append(short)
    found = coco.instances()
    assert (len(found.gt_instances), len(found.ignored_instances)) == (1, 1)
    (said,) = coco.problems()
    assert said.startswith('note: 1 of 2')
    assert '32 (no polygon has three points)' in said
    (said,) = coco.problems(evaluated=True)
    assert said.startswith('broken: annotation 32 of ')
    assert 'polygon of 4 coordinates' in said
    assert not coco.problems(masks=False)


def crowd(size, counts):
    return {'iscrowd': 1, 'segmentation': {'size': size, 'counts': counts}}


BLOCK = [96 * 20, 96 * 40, 96 * 36]  # run lengths down the columns: columns 20 to 59


def compressed(runs):
    mask = {'size': [SIZE, SIZE], 'counts': runs}
    return coco_mask.frPyObjects(mask, SIZE, SIZE)['counts'].decode()


@pytest.mark.parametrize('encode', [list, compressed])
def test_crowd_regions_are_ignored(encode, coco):
    region = {**coco.annotation, **crowd([SIZE, SIZE], encode(BLOCK)), 'id': 32}
    coco.content['annotations'].append(region)
    found = coco.instances()
    assert (len(found.gt_instances), len(found.ignored_instances)) == (1, 1)
    assert found.ignored_instances.masks.masks.sum() == 96 * 40
    assert not coco.problems()


# COCO annotations: rejected


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (dict(bbox=[20, 20, float('nan'), 40]), 'four finite numbers'),
        (dict(bbox=[20, 20, float('inf'), 40]), 'four finite numbers'),
        (dict(bbox=[20, 20, 40]), 'four finite numbers'),
        (dict(bbox=['20', 20, 40, 40]), 'four finite numbers'),
        (dict(area='large'), "area 'large'"),
        (dict(category_id=99), 'category 99, which is not listed'),
        (dict(image_id=99), 'image 99, which is not listed'),
        (dict(segmentation=[]), 'has no segmentation'),
        (dict(segmentation=[[20, 20, float('inf'), 20, 60, 60]]), 'lists of finite numbers'),
        (dict(segmentation=[['a'] * 6]), 'lists of finite numbers'),
        (dict(segmentation='square'), 'neither polygons nor run lengths'),
        (dict(segmentation={'size': [SIZE, SIZE]}), 'neither polygons nor run lengths'),
        (crowd([SIZE, 50], [0, SIZE * 50]), 'mask of [96, 50] pixels'),
        (crowd([SIZE, SIZE], BLOCK[:-1]), 'do not add up to 96 x 96'),
        (crowd([SIZE, SIZE], compressed(BLOCK)[:-1]), 'do not add up to 96 x 96'),
        (crowd([SIZE, SIZE], compressed(BLOCK)[:-2]), 'do not add up to 96 x 96'),
    ],
)
def test_broken_annotations_are_rejected_by_id(change, said, coco):
    coco.content['annotations'].append({**coco.annotation, **change, 'id': 32})
    (problem,) = coco.problems()
    assert problem.startswith('broken: annotation 32 of ')
    assert said in problem
    assert coco.prepared()[0].startswith('broken: annotation 32 of ')


@pytest.mark.parametrize('key', ['id', 'image_id', 'category_id', 'bbox', 'area'])
def test_missing_keys_are_named(key, coco):
    del coco.annotation[key]
    (problem,) = coco.problems()
    assert problem.endswith(f' lacks {key}')


@pytest.mark.parametrize('name', ['images', 'categories', 'annotations'])
def test_duplicate_ids_are_rejected(name, coco):
    coco.content[name].append(dict(coco.content[name][0]))
    (problem,) = coco.problems()
    assert problem.startswith('broken: ')
    assert f'lists the id {coco.content[name][0]["id"]} of {name} twice' in problem


@pytest.mark.parametrize('evaluated', [False, True])
@pytest.mark.parametrize(
    'change',
    [dict(category_id=1), dict(area=0), crowd([SIZE, SIZE], BLOCK)],
    ids=['another class', 'no area', 'crowd'],
)
def test_nothing_usable_of_the_chosen_classes(change, evaluated, coco):
    coco.annotation['category_id'] = 4
    other = {**coco.annotation, 'category_id': 1, 'id': 32}
    coco.content['annotations'].append(other)
    assert not coco.problems(evaluated=evaluated, classes=('star',))

    coco.annotation.update(change)
    problem = coco.problems(evaluated=evaluated, classes=('star',))[-1]
    assert problem.startswith('broken: ')
    assert problem.endswith("has no usable annotation of the classes 'star'")
    assert not coco.problems(evaluated=evaluated, classes=('circle',))
    coco.content['annotations'].clear()
    assert coco.problems(evaluated=evaluated)[-1].endswith('has no usable annotation')


@pytest.mark.parametrize('size', [0, -1, 'tall', None])
def test_images_without_size_are_rejected(size, coco):
    coco.image['height'] = size
    (problem,) = coco.problems()
    assert 'image 7 of ' in problem


@pytest.mark.parametrize(
    'content',
    [
        '',
        '{"images": [',
        '[1, 2]',
        '{}',
        'null',
        '{"images": 3, "annotations": [], "categories": []}',
        '{"images": [{"id": 1}], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [3], "categories": []}',
        '{"images": [], "annotations": [{"id": [1]}], "categories": []}',
    ],
)
def test_other_json_is_rejected(content, tmp_path):
    file = tmp_path / 'instances.json'
    file.write_text(content)
    with pytest.raises(ValueError, match=rf'{file} is not a COCO annotation file'):
        read_coco(file)


def test_training_rejects_broken_data(options, coco, tmp_path):
    """Annotations before it starts; images when a worker process loads them."""

    def train(*more):
        return run('tools/train.py', DETECTOR, '--work-dir', tmp_path / 'work', *options,
                   f'train_dataloader.dataset.data_root={coco.root}', *more, code=1)  # fmt: skip

    whole = coco.file.read_bytes()
    coco.file.write_bytes(zero_filled(whole))
    last = train('train_dataloader.num_workers=1').strip().splitlines()[-1]
    assert last.endswith(f'{coco.file} is truncated: its JPEG data has no end')

    coco.content['annotations'].append({**coco.annotation, 'bbox': [1, 2, 3], 'id': 32})
    path = coco.write('train2017')
    printed = train()
    assert f'broken: annotation 32 of {path} has the box [1, 2, 3]' in printed
    assert f'train_dataloader: {path} has annotations that cannot be used' in printed
    assert 'Traceback' not in printed

    path.write_text('{')
    printed = train()
    assert f'{path} is not a COCO annotation file (JSONDecodeError' in printed
    assert 'Traceback' not in printed


# Label maps


def relabel(ade, image, split='training', **options):
    file = ade / 'annotations' / split / 'one.png'
    image.save(file, **options)
    return file


def test_a_palette_map_holds_indices(ade):
    values = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % 6
    image = Image.fromarray(values, mode='P')
    image.putpalette(list(range(200, 218)))
    relabel(ade, image)
    sample = build(SEGMENTOR, ade)[0]
    found = sample['data_samples'].gt_sem_seg.data.unique().tolist()
    assert found == [0, 1, 2, 3, 4, 255]
    assert not prepared_ade(ade)


@pytest.mark.parametrize(('loader', 'split'), [('train', 'training'), ('val', 'validation')])
@pytest.mark.parametrize(
    ('values', 'dtype', 'said'),
    [
        (200, np.uint8, 'the label map holds 200, but the 5 classes have the labels 1 to 5'),
        (6, np.uint8, 'the label map holds 6, but the 5 classes have the labels 1 to 5'),
        (300, np.uint16, 'labels up to 255, but has the mode I;16 and values from 300 to 300'),
        ([1, 2, 3], np.uint8, 'labels up to 255, but has the mode RGB'),
    ],
)
def test_label_maps_out_of_range_are_named(values, dtype, said, loader, split, ade):
    filled = np.zeros((SIZE, SIZE, *np.shape(values)), dtype) + np.asarray(values, dtype)
    file = relabel(ade, Image.fromarray(filled), split)
    with pytest.raises(DataError, match=rf'seg_map_path {file}: .*{said}'):
        build(SEGMENTOR, ade, loader)[0]
    if values != 6:  # ADE20K has 150 classes
        (problem,) = prepared_ade(ade)
        assert problem.startswith(f'broken: {file} ')


def test_16_bits_with_small_labels_are_read(ade):
    relabel(ade, Image.fromarray(np.full((SIZE, SIZE), 3, np.uint16)))
    sample = build(SEGMENTOR, ade)[0]
    # The corners of a rotated image are ignored.
    assert set(sample['data_samples'].gt_sem_seg.data.unique().tolist()) - {255} == {2}
    assert not prepared_ade(ade)


@pytest.mark.parametrize('damage', [cut, nothing, error_page])
def test_damaged_label_maps_are_named(damage, ade):
    file = ade / 'annotations' / 'training' / 'one.png'
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=str(file)):
        build(SEGMENTOR, ade)[0]
    (problem,) = prepared_ade(ade)
    assert problem.startswith(f'broken: {file} ')


@pytest.mark.parametrize('wrap', [lambda d: ConcatDataset([d]), lambda d: RepeatDataset(d, 2)])
def test_checks_reach_through_wrappers(wrap, coco):
    inner = build(DETECTOR, coco.root)
    inner.pipeline = Compose(inner.pipeline.transforms)
    check_samples(wrap(inner))
    assert isinstance(inner.pipeline, CheckedPipeline)
    pipeline = inner.pipeline
    check_samples(inner)
    assert inner.pipeline is pipeline  # once is enough
