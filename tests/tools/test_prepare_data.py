"""tools/prepare_data.py: complete datasets are linked, and others are not.

test_bad_data.py has the damage to single images and annotations.
"""

import json
import shutil

import cv2
import numpy as np
import prepare_data
import pytest


@pytest.fixture(scope='module')
def layouts(demo_data, tmp_path_factory):
    """The small demo datasets, also in the layouts of LVIS, COCO-Stuff and Cityscapes."""
    root = tmp_path_factory.mktemp('layouts') / 'data'
    shutil.copytree(demo_data, root)
    (root / 'coco_panoptic').symlink_to('coco')
    for split in ('train', 'val'):
        images = root / 'coco' / f'{split}2017'
        shutil.copytree(images, root / 'lvis' / images.name)
        source = root / f'coco/annotations/instances_{split}2017.json'
        content = json.loads(source.read_text())
        for image in content['images']:
            name = image.pop('file_name')
            image['coco_url'] = f'http://images.cocodataset.org/{images.name}/{name}'
        file = root / f'lvis/annotations/lvis_v1_{split}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
        maps = sorted((root / 'ade20k/annotations').glob(f'{split}*/*.png'))
        for number, (image, label_map) in enumerate(
            zip(sorted(images.iterdir()), maps, strict=True)
        ):
            labels = cv2.imread(str(label_map), cv2.IMREAD_UNCHANGED) - np.uint8(1)
            stuff = root / 'coco_stuff164k'
            city, name = f'city{number % 2}', f'city{number % 2}_{number:06}'
            for folder, file in (
                (f'images/{images.name}', image.name),
                (f'annotations/{images.name}', f'{image.stem}_labelTrainIds.png'),
                (f'../cityscapes/leftImg8bit/{split}/{city}', f'{name}_leftImg8bit.png'),
                (f'../cityscapes/gtFine/{split}/{city}', f'{name}_gtFine_labelTrainIds.png'),
            ):
                (stuff / folder).mkdir(parents=True, exist_ok=True)
                content = labels if 'labelTrainIds' in file else cv2.imread(str(image))
                cv2.imwrite(str(stuff / folder / file), content)
    return root


@pytest.fixture
def copy(layouts, tmp_path):
    """A copy of the small datasets, for tests to damage."""
    return shutil.copytree(layouts, tmp_path / 'download', symlinks=True)


def check(name, root, data, *flags):
    prepare_data.main([name, str(root), '--data', str(data), *flags])


@pytest.mark.parametrize(
    ('name', 'link'),
    [
        ('coco', 'coco'),
        ('coco_panoptic', 'coco'),
        ('lvis', 'lvis_v1'),
        ('coco_stuff164k', 'coco_stuff164k'),
        ('ade20k', 'ade/ADEChallengeData2016'),
        ('cityscapes', 'cityscapes'),
        ('imagenet', 'imagenet'),
    ],
)
def test_complete_data_is_linked(name, link, copy, tmp_path, capsys):
    data = tmp_path / 'data'
    check(name, copy / name, data, '--subset')
    assert (data / link).resolve() == (copy / name).resolve()
    check(name, copy / name, data, '--subset')  # again, and from where it is linked
    check(name, data / link, data, '--subset')
    assert 'in its place' in capsys.readouterr().out


def test_something_else_in_the_place_is_kept(copy, tmp_path):
    (tmp_path / 'data' / 'coco').mkdir(parents=True)
    with pytest.raises(SystemExit, match='exists and is not a symlink'):
        check('coco', copy / 'coco', tmp_path / 'data', '--subset')


@pytest.mark.parametrize(
    'name',
    ['coco', 'coco_panoptic', 'lvis', 'coco_stuff164k', 'ade20k', 'cityscapes', 'imagenet'],
)
def test_subset_is_not_a_complete_dataset(name, copy, tmp_path, capsys):
    with pytest.raises(SystemExit, match=f'not a complete {name} dataset'):
        check(name, copy / name, tmp_path / 'data')
    said = capsys.readouterr().err
    assert 'incomplete' in said
    if name == 'lvis':
        assert 'lists 4 classes instead of 1203' in said
    if name == 'coco_panoptic':
        assert 'lists 5 classes instead of 133' in said
    if name == 'imagenet':
        assert 'has 4 classes instead of 1000' in said
        assert 'train holds 8 images instead of 1281167' in said
        assert 'val holds 4 images instead of 50000' in said
    assert not (tmp_path / 'data').exists()


def first(folder, pattern):
    return sorted(folder.glob(pattern))[0]


def no_folder(root):
    shutil.rmtree(root / 'coco' / 'val2017')
    return 'coco', 'missing: ', 'val2017'


def truncated_json(root):
    file = root / 'coco' / 'annotations' / 'instances_val2017.json'
    file.write_bytes(file.read_bytes()[:-20])
    return 'coco', 'broken: ', 'instances_val2017.json is not a COCO annotation file'


def no_split(root):
    shutil.rmtree(root / 'imagenet' / 'val')
    return 'imagenet', 'missing: ', 'imagenet/val'


def no_class(root):
    shutil.rmtree(root / 'imagenet' / 'val' / 'star')
    return 'imagenet', 'missing: ', 'imagenet/val/star'


def empty_class(root):
    file = first(root / 'imagenet' / 'val' / 'square', '*.jpg')
    file.rename(file.with_suffix('.txt'))
    return 'imagenet', 'incomplete: ', 'imagenet/val/square holds no image'


def no_class_folders(root):
    """As the archive of the validation images is unpacked, next to the folders."""
    file = first(root / 'imagenet' / 'train' / 'circle', '*.jpg')
    shutil.copy(file, root / 'imagenet' / 'val')
    return 'imagenet', 'broken: ', 'val holds 1 files outside the folders of the classes, such as '


def truncated_image(root):
    file = first(root / 'imagenet' / 'train' / 'circle', '*.jpg')
    file.write_bytes(file.read_bytes()[:100])
    return 'imagenet', 'broken: ', f'{file.name} is truncated'


def no_panoptic_map(root):
    file = first(root / 'coco' / 'annotations' / 'panoptic_val2017', '*.png')
    file.unlink()
    return 'coco_panoptic', 'missing: ', str(file.name)


def unlisted_segment(root):
    file = first(root / 'coco' / 'annotations' / 'panoptic_val2017', '*.png')
    ids = cv2.imread(str(file))
    ids[:3, :3, 1] = 1  # 256 more
    cv2.imwrite(str(file), ids)
    return 'coco_panoptic', 'broken: ', f'{file.name} holds the segments [1, '


def segment_twice(root):
    file = root / 'coco' / 'annotations' / 'panoptic_val2017.json'
    content = json.loads(file.read_text())
    segments = content['annotations'][0]['segments_info']
    segments.append(segments[0])
    file.write_text(json.dumps(content))
    return 'coco_panoptic', 'broken: ', 'has segment 1 of image 1000001 twice'


def other_json(root):
    shutil.copy(
        root / 'coco' / 'annotations' / 'instances_val2017.json',
        root / 'coco' / 'annotations' / 'panoptic_val2017.json',
    )
    return 'coco_panoptic', 'broken: ', 'is not a panoptic annotation file of COCO'


def no_lvis_image(root):
    file = first(root / 'lvis' / 'val2017', '*.jpg')
    file.unlink()
    return 'lvis', 'missing: ', f'val2017/{file.name}'


def no_url(root):
    shutil.copy(
        root / 'coco' / 'annotations' / 'instances_train2017.json',
        root / 'lvis' / 'annotations' / 'lvis_v1_train.json',
    )
    return 'lvis', 'broken: ', "lvis_v1_train.json is not a COCO annotation file (KeyError: 'coco_u"


def no_train_ids(root):
    file = first(root / 'cityscapes' / 'gtFine' / 'val', '*/*.png')
    file.rename(file.with_name(file.name.replace('labelTrainIds', 'labelIds')))
    return 'cityscapes', 'missing: ', f'{file.name}; csCreateTrainIdLabelImgs'


def unknown_label(root):
    file = first(root / 'coco_stuff164k' / 'annotations' / 'train2017', '*.png')
    labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    labels[0, 0] = 171
    cv2.imwrite(str(file), labels)
    return 'coco_stuff164k', 'broken: ', 'must hold values 0 to 170 and 255, but has values up to 1'


@pytest.mark.parametrize(
    'damage',
    [
        no_folder,
        truncated_json,
        no_split,
        no_class,
        empty_class,
        no_class_folders,
        truncated_image,
        no_panoptic_map,
        unlisted_segment,
        segment_twice,
        other_json,
        no_lvis_image,
        no_url,
        no_train_ids,
        unknown_label,
    ],
)
def test_damage_is_named(damage, copy, tmp_path, capsys):
    name, kind, said = damage(copy)
    with pytest.raises(SystemExit, match='nothing was linked'):
        check(name, copy / name, tmp_path / 'data', '--subset', '--samples', '0')
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(kind)
    assert said in line


def test_bad_arguments(tmp_path):
    with pytest.raises(SystemExit, match='is not a folder'):
        check('coco', tmp_path / 'nothing', tmp_path)
    with pytest.raises(SystemExit):
        check('coco', tmp_path, tmp_path, '--samples', '-1')
