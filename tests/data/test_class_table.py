"""Tables of classes, as other tools write them."""

import pytest

from mmatm.data import DataError
from mmatm.data.formats.class_table import Row, find_table, read_table
from mmatm.data.formats.found import Tree


@pytest.mark.parametrize(
    ('name', 'text', 'rows'),
    [
        ('class_dict.csv', 'name,r,g,b\nwide road,1,2,3\nsky 2,4,5,6\n',
         [Row('wide road', (1, 2, 3)), Row('sky 2', (4, 5, 6))]),
        ('label_colors.txt', '64 128 64\tAnimal\n192 0 128\t\tArch way\n',
         [Row('Animal', (64, 128, 64)), Row('Arch way', (192, 0, 128))]),
        ('labelmap.txt', '# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:0,128,0::\n',
         [Row('background', (0, 0, 0)), Row('car', (0, 128, 0))]),
        ('_classes.csv', 'Pixel Value, Class\n0, background\n1, red cell\n',
         [Row('background', label=0), Row('red cell', label=1)]),
        ('codes.txt', 'Animal\nArch 2\n', [Row('Animal'), Row('Arch 2')]),
        ('classes.csv', 'sky,0\nroad,1\n', [Row('sky', label=0), Row('road', label=1)]),
    ],
)  # fmt: skip
def test_spellings(name, text, rows, tmp_path):
    file = tmp_path / name
    file.write_text(text)
    assert read_table(file) == rows


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('sky,1,2,3\nroad,4,5,6\nsky,7,8,9\n', "has the class 'sky' 2 times"),
        ('sky,1,2,3\nroad,1,2,3\n', r'has the color \(1, 2, 3\) 2 times'),
    ],
)
def test_what_is_there_twice_is_named(text, reason, tmp_path):
    (tmp_path / 'class_dict.csv').write_text(text)
    with pytest.raises(DataError, match=reason):
        find_table(Tree(tmp_path))


def test_a_list_of_something_else_is_no_table(tmp_path):
    (tmp_path / 'labels.txt').write_text('sky\nroad\nsky\n')
    assert find_table(Tree(tmp_path)) is None


def test_table_with_colors_among_others(tmp_path):
    (tmp_path / 'classes_old.txt').write_bytes(b'K\xf6rnchen\n')
    (tmp_path / 'codes.txt').write_text('sky\nroad\n')
    (tmp_path / 'labels.csv').write_text('1.jpg,0\n2.jpg,1\n3.jpg,0\n')  # of images
    (tmp_path / 'names.txt').write_text('sky\nroad\n')
    assert find_table(Tree(tmp_path)) == tmp_path / 'codes.txt'
    (tmp_path / 'class_dict.csv').write_text('sky,1,2,3\nroad,4,5,6\n')
    assert find_table(Tree(tmp_path)) == tmp_path / 'class_dict.csv'
    (tmp_path / 'palette.txt').write_text('sky,1,2,3\n')
    with pytest.raises(DataError, match='both name classes'):
        find_table(Tree(tmp_path))


@pytest.mark.parametrize(
    'text',
    ['', 'a\nb,1\n', 'a,1,2,300\n', 'a,300\n', 'a\na\n', 'a,1,2,3\nb,1,2,3\n', 'a,1\nb,1\n'],
)
def test_what_is_no_table(text, tmp_path):
    file = tmp_path / 'classes.csv'
    file.write_text(text)
    with pytest.raises(DataError, match=r'classes\.csv'):
        read_table(file)
