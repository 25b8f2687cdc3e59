"""tools/prepare_data.py: complete datasets are linked, and others are not.

test_bad_data.py has the damage to single images and annotations.
"""

import shutil

import prepare_data
import pytest


@pytest.fixture
def copy(demo_data, tmp_path):
    """A copy of the small demo datasets, for tests to damage."""
    return shutil.copytree(demo_data, tmp_path / 'download')


def check(name, root, data, *flags):
    prepare_data.main([name, str(root), '--data', str(data), *flags])


@pytest.mark.parametrize(
    ('name', 'link'),
    [('coco', 'coco'), ('ade20k', 'ade/ADEChallengeData2016'), ('imagenet', 'imagenet')],
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


@pytest.mark.parametrize('name', ['coco', 'ade20k', 'imagenet'])
def test_subset_is_not_a_complete_dataset(name, copy, tmp_path, capsys):
    with pytest.raises(SystemExit, match=f'not a complete {name} dataset'):
        check(name, copy / name, tmp_path / 'data')
    said = capsys.readouterr().err
    assert 'incomplete' in said
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


@pytest.mark.parametrize(
    'damage',
    [no_folder, truncated_json, no_split, no_class, empty_class, no_class_folders, truncated_image],
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
