"""``mmatm new``: from messy folders to configs that train, or to the reason why not."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import own_data

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from commands import run, scalars
from mmatm.cli import arguments, new
from mmatm.cli.new import trial
from reference import published_state_dict


@pytest.fixture(autouse=True)
def two_steps(reader, monkeypatch):
    """Try configs for two steps."""
    monkeypatch.setattr(trial, 'try_config', functools.partial(trial.try_config, steps=2))


@pytest.fixture
def data(tmp_path):
    return tmp_path / 'data'


@pytest.fixture
def make(data, tmp_path, capsys):
    """Run the command; the config, and what was printed."""

    def run(*flags, tried=False, source=data):
        out = tmp_path / 'out' / 'mine.py'
        flags = ['--device', 'cpu', *map(str, flags), *([] if tried else ['--no-try'])]
        new.main([str(source), '--out', str(out), *flags])
        return Config.fromfile(out), capsys.readouterr().out

    return run


@pytest.fixture
def rejected(make, tmp_path, capsys):
    """Run the command on data that it rejects; everything that it says."""

    def run(*flags, **options):
        with pytest.raises(SystemExit) as stopped:
            make(*flags, **options)
        assert not list(tmp_path.glob('out/*'))
        said = str(stopped.value)
        assert len(said.splitlines()) == 1
        return capsys.readouterr().err + said

    return run


def dataset(cfg, loader='train'):
    init_default_scope(cfg.default_scope)
    return DATASETS.build(cfg[f'{loader}_dataloader'].dataset)


def annotations(cfg, split='train'):
    return json.loads(open(f'{cfg.annotations}/{split}.json').read())


def everything(cfg, what='annotations'):
    return [thing for split in ('train', 'val') for thing in annotations(cfg, split)[what]]


# Detection


def test_voc_with_spaces_difficult_objects_and_without_size(data, make):
    own_data.voc(data, name='red cell')
    boxes = [('red cell', 1, 1, 30, 30), ('red cell', 40, 20, 90, 60, 1), ('spot', 9, 9, 9, 12)]
    own_data.write(data / 'Annotations' / '1.xml', own_data.voc_xml(boxes, size=None))
    own_data.write(data / 'Annotations' / '2.xml', own_data.voc_xml([]))
    with pytest.raises(SystemExit, match='has no labels'):
        make('--classes', 'spot')
    cfg, said = make('--classes', 'red cell', tried=True)
    assert cfg.model.type == 'RetinaNet'
    assert cfg.model.bbox_head.num_classes == 1
    assert cfg.metainfo.classes == ('red cell',)
    # VOC counts from 1, and what reaches out of the image is cut.
    assert [0, 0, 29, 29] in [thing['bbox'] for thing in everything(cfg)]
    (crowd,) = [thing for thing in everything(cfg) if thing['iscrowd']]
    assert crowd['bbox'] == [39, 19, 25, 29]
    assert len(dataset(cfg)) + len(dataset(cfg, 'val')) == 6
    assert 'spot, not in --classes' in said


def test_voc_lists(data, make):
    own_data.voc(data)
    lists = data / 'ImageSets' / 'Main'
    own_data.write(lists / 'trainval.txt', '0\n1\n2\n3\n')
    own_data.write(lists / 'train.txt', '0\n1\n')
    own_data.write(lists / 'val.txt', '2\n3\n')
    own_data.write(lists / 'test.txt', '4\n5\n')
    own_data.write(lists / 'cell_train.txt', '0 1\n1 -1\n')  # of one class
    cfg, _ = make()
    assert [len(annotations(cfg, split)['images']) for split in ('train', 'val')] == [4, 2]
    cfg, _ = make('--train', 'train', '--val', 'val', '--force')
    counts = [len(annotations(cfg, split)['images']) for split in ('train', 'val', 'test')]
    assert counts == [2, 2, 2]


def test_voc_image_in_two_splits(data, rejected):
    own_data.voc(data)
    own_data.write(data / 'ImageSets' / 'Main' / 'train.txt', '0\n1\n2\n')
    own_data.write(data / 'ImageSets' / 'Main' / 'val.txt', '2\n3\n')
    assert '1 images are in train and in val' in rejected()
    own_data.write(data / 'ImageSets' / 'Main' / 'val.txt', '3\n17\n')
    assert 'val.txt, line 2: 17 has no usable image' in rejected()


def test_voc_broken_files(data, rejected):
    own_data.voc(data, number=7)
    own_data.write(data / 'Annotations' / '0.xml', '<annotation><object>')
    own_data.write(data / 'Annotations' / '1.xml', own_data.voc_xml([('a', 'x', 1, 2, 3)]))
    own_data.write(data / 'Annotations' / '2.xml', own_data.voc_xml([('a', 200, 1, 300, 30)]))
    own_data.write(data / 'Annotations' / '3.xml', own_data.voc_xml([], size=(48, 64)))
    (data / 'JPEGImages' / '4.jpg').unlink()
    own_data.photo(data / 'JPEGImages' / '5.png')
    own_data.write(data / 'Annotations' / '5.xml', own_data.voc_xml([], filename='5.tif'))
    own_data.write(data / 'Annotations' / '6.xml', own_data.voc_xml([('', 1, 1, 30, 30)]))
    said = rejected()
    assert '0.xml is not XML' in said
    assert "1.xml: object 1, 'a', has no box" in said
    assert '2.xml: object 1, a, has the box [200.0, 1.0, 300.0, 30.0], outside the image' in said
    assert '3.xml: the image has 48 x 64 pixels, but its annotations are for 64 x 48' in said
    assert '4.xml has no image' in said
    assert '5.xml could be of' in said
    assert "6.xml: object 1 has the name ''" in said


def test_voc_file_name_decides_between_suffixes(data, make):
    own_data.voc(data)
    own_data.photo(data / 'JPEGImages' / '5.png')  # 5.xml names 5.jpg
    cfg, _ = make()
    names = [image['file_name'] for image in everything(cfg, 'images')]
    assert '5.jpg' in names
    assert len(names) == 6


def test_coco_with_gaps_background_and_an_empty_image(data, make):
    categories = ((0, 'background'), (3, 'red cell'), (7, 'dust'))
    own_data.coco(data, 'train', categories=categories)
    own_data.coco(data, 'valid', categories=categories, start=10)
    for split in ('train', 'valid'):
        file = data / 'annotations' / f'instances_{split}.json'
        own_data.change(file, lambda content: _drop(content, 0))
    cfg, said = make(tried=True)
    assert cfg.model.type == 'MaskRCNN'
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 2
    assert cfg.metainfo.classes == ('red cell', 'dust')
    assert len(dataset(cfg)) == 4
    assert 'background' in said
    labels = [i['bbox_label'] for i in dataset(cfg).get_data_info(0)['instances']]
    assert labels == [0, 1]


def _drop(content, category):
    kept = [a for a in content['annotations'] if a['category_id'] != category]
    content['annotations'] = kept


def test_coco_missing_image_and_rotated_image(data, rejected):
    own_data.coco(data)
    (data / 'train' / '001.png').unlink()
    exif = Image.Exif()
    exif[0x112] = 6
    photo = own_data.photo(data / 'train' / '002.jpg', exif=exif)
    photo.rename(data / 'train' / '002.png')
    said = rejected()
    assert 'image 1 of' in said
    assert '001.png' in said
    assert 'image 2 of' in said
    assert 'rotated by an EXIF tag' in said


def test_coco_broken_annotation_and_partial_masks(data, rejected):
    own_data.coco(data)
    file = data / 'annotations' / 'instances_train.json'
    own_data.change(file, lambda content: content['annotations'][1].update(segmentation=[]))
    assert '--task detection' in rejected()
    assert 'annotation 1 of' in rejected('--task', 'instance')
    own_data.change(file, lambda content: content['annotations'][2].update(category_id=99))
    assert 'annotation 100 of' in rejected('--task', 'detection')


BOX = [[2, 5, 16, 5, 16, 19, 2, 19]]
RUNS = {'size': [48, 64], 'counts': '0`11O1O1O1O1Okf2'}


@pytest.mark.parametrize(
    ('segmentation', 'model'), [(None, 'RetinaNet'), (BOX, 'RetinaNet'), (RUNS, 'MaskRCNN')]
)
def test_coco_segmentations(segmentation, model, data, make):
    own_data.coco(data, number=3, categories=((3, 'cell'),))
    thing = {'bbox': [2, 5, 14, 14], 'segmentation': segmentation}
    file = data / 'annotations' / 'instances_train.json'
    own_data.change(file, lambda content: [a.update(thing) for a in content['annotations']])
    cfg, _ = make('--val-share', 0.3)
    assert cfg.model.type == model


@pytest.mark.parametrize(
    ('edit', 'flags', 'reason'),
    [
        (lambda content: content['categories'].pop(), (), "['red cell', 'dust'] and ['red cell']"),
        (lambda content: None, ('--classes', 'cell'), "--classes cell: the categories are ['dust'"),
        (lambda content: content['annotations'][3].update(bbox=[5000, 5, 9, 9]), (), '[5000, 5,'),
        (lambda content: [a.pop('area') for a in content['annotations']], (), '... and 4 more'),
    ],
)
def test_coco_split_that_does_not_fit(edit, flags, reason, data, rejected):
    own_data.coco(data)
    own_data.coco(data, 'val', number=13, start=10)
    own_data.change(data / 'annotations' / 'instances_val.json', edit)
    assert reason in rejected(*flags)


def test_coco_without_usable_categories(data, rejected):
    own_data.coco(data, categories=((3, 'cell'), (7, 'cell')))
    assert "two categories have the name 'cell'" in rejected()
    file = data / 'annotations' / 'instances_train.json'
    own_data.change(file, lambda content: content.update(annotations=[]))
    assert 'no annotation is of a listed category' in rejected()


def test_coco_files_that_number_categories_differently(data, make):
    own_data.coco(data, categories=((1, 'cell'), (2, 'dust')))
    own_data.coco(data, 'val', categories=((1, 'dust'), (2, 'cell')))  # images of the same names
    for split, unused in (('train', 2), ('val', 1)):
        file = data / 'annotations' / f'instances_{split}.json'
        own_data.change(file, lambda content, unused=unused: _drop(content, unused))
    own_data.change(file, lambda content: content['annotations'][0].update(ignore=1))
    file = data / 'annotations' / 'instances_train.json'
    own_data.change(file, lambda content: content['annotations'][0].update(segmentation=[[1] * 7]))
    cfg, _ = make()
    assert cfg.metainfo.classes == ('cell',)
    assert [len(annotations(cfg, split)['annotations']) for split in ('train', 'val')] == [2, 2]
    assert {Path(i['file_name']).parts[0] for i in annotations(cfg)['images']} == {'train'}


def test_coco_files_of_one_split(data, make, rejected):
    own_data.coco(data)
    shutil.copytree(data / 'train', data / 'copy')
    file = data / 'annotations' / 'instances_train.json'
    assert f'{data}/copy/001.png or {data}/train/001.png' in rejected(source=file)
    file.write_text(file.read_text().replace('"file_name": "', '"file_name": "train/'))
    shutil.copy(file, file.with_name('cells_train.json'))
    file = file.rename(file.with_name('keypoints_train.json'))
    assert '--train: annotations/cells_train, annotations/keypoints_train' in rejected()
    shutil.copy(file, file.with_name('instances_train.json'))
    cfg, _ = make()
    assert len(everything(cfg, 'images')) == 4
    cfg, _ = make('--classes', 'dust', '--force', source=file)
    assert len(everything(cfg)) == 3


def test_yolo_with_gray_and_cmyk_images_and_one_split_missing(data, make):
    own_data.yolo(data, folder='train/images', names=())
    own_data.photo(data / 'train/images/0.jpg', mode='L')
    own_data.photo(data / 'train/images/1.jpg', mode='CMYK')
    (data / 'train/images/2.jpg').unlink()
    own_data.photo(data / 'train/images/2.png', mode='RGBA')
    own_data.photo(data / 'train/images/9.jpg')  # without a label file: nothing is on it
    own_data.write(data / 'train/labels/3.txt', '0 0.9 0.5 0.4 0.5\n')
    settings = 'train: ../train/images\nval: ../valid/images\nnc: 1\nnames: {0: blood cell}\n'
    own_data.write(data / 'data.yaml', settings)
    cfg, said = make(tried=True)
    assert cfg.metainfo.classes == ('blood cell',)
    assert len(everything(cfg)) == 6
    assert [44.8, 12.0, 19.2, 24.0] in [thing['bbox'] for thing in everything(cfg)]
    assert len(everything(cfg, 'images')) == 7
    assert '1 reach beyond their image' in said
    assert 'there was one split' in said


@pytest.mark.parametrize(
    'style', ['split below', 'split above', 'lists', 'lists of same names', 'beside']
)
def test_yolo_layouts(style, data, make):
    if style == 'split below':
        for split in ('train', 'val'):
            own_data.yolo(data, folder=f'images/{split}')
    elif style == 'split above':
        for split in ('train', 'val'):
            own_data.yolo(data, folder=f'{split}/images')
    elif style == 'lists':
        own_data.yolo(data)
        own_data.write(data / 'train.txt', ''.join(f'./images/{i}.jpg\n' for i in range(5)))
        own_data.write(data / 'val.txt', './images/5.jpg\n')
        own_data.write(data / 'data.yaml', 'train: train.txt\nval: val.txt\nnames: [cell]\n')
    elif style == 'lists of same names':
        for folder in ('first', 'second'):
            own_data.yolo(data, folder=f'images/{folder}')
        lines = [f'images/first/{i}.jpg\n' for i in range(5)]
        own_data.write(data / 'train.txt', '\n'.join(lines))
        own_data.write(data / 'val.txt', 'images/second/0.jpg\n')
    else:
        own_data.yolo(data, folder='obj_train_data', names=())
        own_data.write(data / 'obj.names', 'cell\n')
    cfg, _ = make()
    counts = [len(annotations(cfg, split)['images']) for split in ('train', 'val')]
    assert counts == ([6, 6] if style.startswith('split') else [5, 1])
    assert len(dataset(cfg)) == counts[0]


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        ('2 0.4 0.5 0.3 0.4', 'the class is 2, but the classes have the numbers 0 to 1'),
        ('0 40 0.5 0.3 0.4', 'coordinates must be fractions of the image, from 0 to 1, not 40'),
        ('0 0.4 0.5 0.3', 'expected a box of 4'),
        ('cell 0.4 0.5 0.3 0.4', 'expected numbers'),
    ],
)
def test_yolo_broken_line(line, reason, data, rejected):
    own_data.yolo(data, names=('cell', 'red cell'))
    own_data.write(data / 'labels' / '4.txt', f'0 0.4 0.5 0.3 0.4\n{line}\n')
    assert f'{data}/labels/4.txt, line 2: {reason}' in rejected()


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('names: [cell', 'data.yaml is not YAML'),
        ('names: 5', 'data.yaml: names must be a list'),
        ('names: {cell: 0}', 'data.yaml: names must be a list'),
        ('nc: 3\nnames: [cell]', 'nc is 3, but there are 1 names'),
        ('names: [cell, cell]', "has the name 'cell' twice"),
        ('path: nowhere\nnames: [cell]', 'nowhere is missing'),
    ],
)
def test_yolo_broken_settings(text, reason, data, rejected):
    file = own_data.write(data / 'settings' / 'deep' / 'data.yaml', text)
    assert reason in rejected(source=file)


def test_yolo_settings_elsewhere(data, make, tmp_path):
    own_data.yolo(data, names=())
    text = f'path: {data}\ntrain: images\nnames: [cell]\n'
    cfg, _ = make(source=own_data.write(tmp_path / 'settings' / 'deep' / 'data.yaml', text))
    assert len(everything(cfg)) == 6


def test_yolo_contradictions(data, rejected):
    own_data.yolo(data, folder='images/train')
    assert '--classes has 2 names' in rejected('--classes', 'a,b')
    assert '6 labels are boxes' in rejected('--task', 'instance')
    own_data.yolo(data, number=1)
    assert '1 images are in no folder of a split' in rejected()
    for name in ('data', 'more'):
        own_data.write(data / f'{name}.yaml', 'names: [cell]')
    assert 'more.yaml both name classes' in rejected()


def test_yolo_with_other_files(data, make):
    own_data.yolo(data, names=())
    (data / 'classes.txt').write_bytes('Körnchen'.encode('latin-1'))
    (data / 'again').symlink_to(data)
    own_data.photo(data / 'preview' / 'all.jpg')
    own_data.write(data / 'labels' / 'notes.txt', 'drawn by hand\n')
    own_data.write(data / 'labels' / '0.txt', '0 0.5 0.5 0.01 0.5\n')  # less than a pixel
    names = own_data.write(data / 'mine.txt', 'grain\n')
    cfg, _ = make('--classes', names, '--task', 'detection')
    assert cfg.metainfo.classes == ('grain',)
    assert (len(everything(cfg)), len(everything(cfg, 'images'))) == (5, 6)


@pytest.mark.parametrize('head', ['retinanet', 'faster_rcnn'])
def test_many_objects_of_all_shapes(head, data, make):
    sizes = ('0.25 0.06', '0.05 0.3', '1 1')
    own_data.yolo(data, line='\n'.join(f'0 0.5 0.5 {size}' for size in sizes * 20))
    cfg, _ = make('--head', head)
    anchors = (cfg.model.get('rpn_head') or cfg.model.bbox_head).anchor_generator
    assert anchors.ratios == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert len(anchors.strides) == cfg.model.neck.num_outs == 4
    assert cfg.model.test_cfg.get('rcnn', cfg.model.test_cfg).max_per_img == 120


def test_yolo_polygons(data, make):
    own_data.yolo(data, line='0 0.1 0.1 0.5 0.1 0.5 0.6')
    cfg, _ = make()
    assert cfg.model.type == 'MaskRCNN'
    (thing, *_) = annotations(cfg)['annotations']
    assert thing['segmentation'] == [[6.4, 4.8, 32.0, 4.8, 32.0, 28.8]]
    assert thing['area'] == pytest.approx(25.6 * 24 / 2)


def test_yolo_boxes_among_polygons(data, rejected):
    own_data.yolo(data)
    own_data.write(data / 'labels' / '0.txt', '0 0.1 0.1 0.5 0.1 0.5 0.6')
    assert '--task detection' in rejected()


def test_same_stem_twice(data, rejected):
    own_data.yolo(data)
    assert 'is for detection here' in rejected('--task', 'segmentation')
    own_data.photo(data / 'images' / '3.png')
    assert '3.txt: rename one of them' in rejected()


def test_coco_file_that_breaks_off(data, rejected):
    own_data.coco(data)
    own_data.coco(data, 'val', start=10)
    file = data / 'annotations' / 'instances_train.json'
    file.write_text(file.read_text()[:-40])
    assert f'{file} is not a COCO annotation file' in rejected()


# Segmentation


def test_void_that_is_not_255(data, make, rejected):
    own_data.segnet(data, [0, 1, 2, 11])
    said = rejected()
    assert '--void' in said
    assert '11 (25.0%)' in said
    assert '--void 9: the label maps hold only the labels' in rejected('--void', 9)
    cfg, _ = make('--void', 11, '--classes', 'sky,wide road,car', tried=True)
    assert cfg.model.decode_head.ignore_index == 11
    assert cfg.model.data_preprocessor.seg_pad_val == 11
    assert cfg.val_evaluator.ignore_index == 11
    assert cfg.model.decode_head.num_classes == 3
    labels = dataset(cfg)[0]['data_samples'].gt_sem_seg.data
    assert set(labels.unique().tolist()) <= {0, 1, 2, 11}


@pytest.mark.parametrize(('steps', 'kinds'), [(19, ['PolyLR']), (20, ['LinearLR', 'PolyLR'])])
def test_warm_up_reaches_the_learning_rate(steps, kinds, data, make, monkeypatch):
    own_data.segnet(data, [0, 1, 2])
    choose = new.choose_schedule
    monkeypatch.setattr(
        new, 'choose_schedule', lambda *args: dataclasses.replace(choose(*args), steps=steps)
    )
    cfg, _ = make('--void', 'none')
    assert [scheduler.type for scheduler in cfg.param_scheduler] == kinds
    assert cfg.param_scheduler[-1].begin == (0 if steps < 20 else 2)


def test_one_name_too_few_is_asked_for(data, make, rejected):
    own_data.segnet(data, [0, 1, 2])
    said = rejected('--classes', 'sky,road')
    assert '--void 0' in said
    assert '--void 2' in said
    cfg, _ = make('--classes', 'sky,road', '--void', 0)
    assert cfg.train_pipeline[1].reduce_zero_label
    assert cfg.model.decode_head.num_classes == 2
    labels = dataset(cfg, 'val')[0]['data_samples'].gt_sem_seg.data
    assert labels.unique().tolist() == [0, 1, 255]


def test_labels_from_one_and_a_missing_split(data, make):
    own_data.segnet(data, [1, 2, 3], splits=('train',), number=5)
    own_data.write(data / 'codes.txt', 'sky\nroad\ncar\n')
    cfg, said = make()
    labels = dataset(cfg, 'val')[0]['data_samples'].gt_sem_seg.data
    assert labels.unique().tolist() == [0, 1, 2]
    assert (len(dataset(cfg)), len(dataset(cfg, 'val'))) == (4, 1)
    assert 'run from 1 to 3' in said


TABLE = 'name,r,g,b\nwide road,128,64,128\nsky,128,128,128\nVoid,0,0,0\nbus,1,2,3\n'
ROAD, SKY, VOID = (128, 64, 128), (128, 128, 128), (0, 0, 0)


def test_colors_with_a_table(data, make):
    for split in ('train', 'val'):
        for at in range(2):
            own_data.photo(data / split / f'{split}_{at}.png')
            colors = own_data.stripes([ROAD, SKY, VOID] if at else [SKY, SKY, VOID])
            own_data.label_map(data / f'{split}_labels' / f'{split}_{at}_L.png', colors)
    own_data.write(data / 'class_dict.csv', TABLE)
    cfg, said = make()
    assert cfg.metainfo.classes == ('wide road', 'sky')
    assert cfg.metainfo.palette == [ROAD, SKY]
    assert 'bus' in said
    first, second = dataset(cfg, 'val')
    assert first['data_samples'].gt_sem_seg.data.unique().tolist() == [1, 255]
    wanted = own_data.stripes([0, 1, 255])
    assert np.array_equal(second['data_samples'].gt_sem_seg.data[0], wanted)


def test_color_that_is_not_in_the_table(data, rejected):
    for at in range(3):
        own_data.photo(data / 'images' / f'{at}.jpg')
        own_data.label_map(data / 'masks' / f'{at}.png', own_data.stripes([ROAD, SKY]))
    own_data.label_map(data / 'masks' / '1.png', own_data.stripes([ROAD, (9, 8, 7)]))
    assert '--classes FILE' in rejected()
    own_data.write(data / 'label_colors.txt', '128 64 128\tRoad\n128 128 128\tSky\n')
    assert 'hold colors' in rejected('--void', 9)
    assert f'{data}/masks/1.png has the color (9, 8, 7) in 1536 pixels' in rejected()


def test_palette_maps_in_the_layout_of_voc(data, make):
    for at in range(4):
        own_data.photo(data / 'JPEGImages' / f'{at}.jpg')
        labels = own_data.stripes([0, 1, 255])
        colors = [value for index in range(256) for value in (index, 128, 0)]
        if at < 3:
            own_data.label_map(data / 'SegmentationClass' / f'{at}.png', labels, colors)
            own_data.label_map(data / 'SegmentationObject' / f'{at}.png', labels, colors)
    own_data.write(data / 'ImageSets' / 'Segmentation' / 'train.txt', '0\n1\n')
    own_data.write(data / 'ImageSets' / 'Segmentation' / 'val.txt', '2\n')
    cfg, _ = make('--classes', 'background,cat')
    assert len(dataset(cfg)) == 2
    labels = dataset(cfg, 'val')[0]['data_samples'].gt_sem_seg.data
    assert labels.unique().tolist() == [0, 1, 255]


def test_list_of_validation_images_and_a_class_named_void(data, make):
    for at in range(5):
        own_data.photo(data / 'images' / f'0006R0_f0{at}.png')
        maps = own_data.stripes([0, 1, 2])
        own_data.label_map(data / 'labels' / f'0006R0_f0{at}_P.png', maps)
    own_data.write(data / 'codes.txt', 'Animal\nWide Road\nVoid\n')
    own_data.write(data / 'valid.txt', '0006R0_f03.png\n')
    cfg, _ = make()
    assert cfg.metainfo.classes == ('Animal', 'Wide Road')
    assert cfg.model.decode_head.ignore_index == 2
    assert [len(dataset(cfg, loader)) for loader in ('train', 'val')] == [4, 1]


def test_label_maps_of_images_with_two_suffixes(data, make, rejected):
    own_data.segnet(data, [0, 1, 255], number=2)
    own_data.photo(data / 'train' / 'more.jpg')
    own_data.label_map(data / 'trainannot' / 'more.png', own_data.stripes([0, 1]))
    own_data.photo(data / 'train' / 'train_0.jpg')
    assert 'train_0.png: rename one of them' in rejected()
    (data / 'train' / 'train_0.jpg').unlink()
    cfg, _ = make()
    assert len(dataset(cfg)) == 3


def test_palette_decides_which_color_of_the_table_a_label_is(data, make):
    colors = [value for index in range(256) for value in (index, 128, 0)]
    for at in range(3):
        own_data.photo(data / 'images' / f'{at}.jpg')
        own_data.label_map(data / 'masks' / f'{at}.png', own_data.stripes([4, 2]), colors)
    own_data.write(data / 'class_dict.csv', 'sky,4,128,0\nvoid,9,9,9\nroad,2,128,0\n')
    cfg, _ = make()
    assert cfg.metainfo.classes == ('road', 'sky')
    assert cfg.metainfo.palette == [(2, 128, 0), (4, 128, 0)]
    assert dataset(cfg)[0]['data_samples'].gt_sem_seg.data.unique().tolist() == [0, 1]


def test_masks_of_0_and_255_beside_the_images(data, make):
    for split in ('train', 'valid'):
        for at in range(2):
            own_data.photo(data / split / f'scan {at}.jpg')
            own_data.label_map(data / split / f'scan {at}_mask.png', own_data.stripes([0, 255]))
    cfg, _ = make()
    assert cfg.metainfo.classes == ('background', 'foreground')
    labels = dataset(cfg, 'val')[0]['data_samples'].gt_sem_seg.data
    assert labels.unique().tolist() == [0, 1]


def test_label_maps_of_another_size_and_label_too_large(data, rejected):
    own_data.segnet(data, [0, 1])
    own_data.write(data / 'classes.txt', 'sky\nroad\n')
    other = own_data.stripes([0, 1], size=(32, 24))
    own_data.label_map(data / 'trainannot' / 'train_1.png', other)
    own_data.label_map(data / 'valannot' / 'val_0.png', own_data.stripes([0, 7]))
    said = rejected()
    assert 'train_1.png has 32 x 24 pixels, but its image' in said
    assert 'val_0.png holds the label 7' in said


def test_label_maps_that_cannot_be_read(data, rejected):
    own_data.segnet(data, [0, 1], splits=('train',), number=4)
    maps = [data / 'trainannot' / f'train_{at}.png' for at in range(4)]
    Image.fromarray(own_data.stripes([0, 1000]).astype(np.uint16)).save(maps[0])
    maps[1].write_bytes(maps[1].read_bytes()[:-40])
    own_data.label_map(maps[2], own_data.stripes([0], size=(1, 9)))
    maps[3].write_bytes(b'')
    said = rejected()
    for reason in ('0.png holds labels from 0 to 1000', '1.png is not an image', '3.png is empty'):
        assert f'{data}/trainannot/train_{reason}' in said
    assert 'train_2.png has 1 x 9 pixels' in said


@pytest.mark.parametrize(('mode', 'values'), [('1', [0, 255]), ('RGBA', [0, 1]), ('I;16', [0, 1])])
def test_label_maps_in_other_modes(mode, values, data, make):
    own_data.segnet(data, values)
    for path in data.glob('*annot/*'):
        Image.open(path).convert(mode).save(path)
    cfg, _ = make('--void', 'none', '--classes', 'sky,road')
    assert dataset(cfg)[0]['data_samples'].gt_sem_seg.data.unique().tolist() == [0, 1]


def test_two_folders_of_label_maps(data, make, rejected):
    for at in range(3):
        own_data.photo(data / 'images' / f'{at}.png')
        own_data.label_map(data / 'coarse' / f'{at}.png', own_data.stripes([0, 1]))
        own_data.label_map(data / 'fine' / f'{at}.png', own_data.stripes([0, 1, 2]))
    assert 'name one by --labels' in rejected()
    assert '--labels finest' in rejected('--labels', 'finest')
    own_data.label_map(data / 'fine' / '0.bmp', own_data.stripes([0]))
    assert f'{data}/fine/0.bmp or {data}/fine/0.png' in rejected('--labels', 'fine')
    (data / 'fine' / '0.bmp').unlink()
    cfg, _ = make('--labels', 'fine', '--void', 'none')
    assert Path(cfg.data_root).name == 'images'
    assert dataset(cfg)[0]['data_samples'].gt_sem_seg.data.unique().tolist() == [0, 1, 2]


def test_drawings_and_a_palette_of_other_colors(data, make, monkeypatch):
    colors = [value for index in range(256) for value in (index, 128, 0)]
    for at in range(3):
        own_data.label_map(data / 'drawings' / f'{at}.png', own_data.stripes([ROAD, SKY]))
        own_data.label_map(data / 'masks' / f'{at}.png', own_data.stripes([0, 1]), colors)
    own_data.write(data / 'class_dict.csv', 'sky,9,9,9\nroad,8,8,8\n')
    monkeypatch.setattr(Path, 'symlink_to', Path.rename)  # OSError, as on Windows
    cfg, _ = make()
    assert cfg.metainfo.classes == ('sky', 'road')
    assert Path(cfg.data_root).name == 'drawings'
    assert dataset(cfg)[0]['data_samples'].gt_sem_seg.data.unique().tolist() == [0, 1]


def test_large_images_with_a_rare_class_in_little_time(data, make):
    for split, values in (('train', [0] * 19 + [1]), ('val', [0])):
        for at in range(2):
            own_data.photo(data / split / f'{at}.png', size=(800, 600))
            labels = own_data.stripes(values, size=(800, 600))
            own_data.label_map(data / f'{split}annot' / f'{at}.png', labels)
    cfg, said = make('--classes', 'sky,rust', '--minutes', 0.01)
    assert cfg.scale == (320, 256)
    assert cfg.model.decode_head.loss_decode.class_weight == [0.73, 3.16]
    assert cfg.train_cfg.val_interval == cfg.train_cfg.max_iters
    assert 'more than 0.01 minutes' in said
    assert 'val has nothing of rust' in said


def test_nested_folders_with_the_same_names(data, make):
    for split in ('train', 'val'):
        for at, folder in enumerate(('first day', 'second day')):
            for name in ('0', '1'):
                own_data.photo(data / 'images' / split / folder / f'{name}.png')
                maps = own_data.stripes([at, 2])
                own_data.label_map(data / 'labels' / split / folder / f'{name}.png', maps)
    cfg, _ = make('--void', 'none')
    for loader in ('train', 'val'):
        found = [
            set(sample['data_samples'].gt_sem_seg.data.unique().tolist())
            for sample in dataset(cfg, loader)
        ]
        assert sorted(map(sorted, found)) == [[0, 2], [0, 2], [1, 2], [1, 2]]


# Classification


def test_folder_per_class(data, make):
    pytest.importorskip('mmpretrain')
    own_data.class_folders(data)
    cfg, _ = make(tried=True)
    assert cfg.model.head.num_classes == 2
    assert cfg.metainfo.classes == ('red cell', 'train')
    assert [len(dataset(cfg, loader)) for loader in ('train', 'val')] == [6, 2]


def test_folder_per_split_and_class(data, make):
    pytest.importorskip('mmpretrain')
    own_data.class_folders(data / 'train', classes=('dust', 'red cell', 'train'))
    own_data.class_folders(data / 'test', number=2)
    cfg, _ = make('--classes', 'train,red cell')
    assert cfg.metainfo.classes == ('train', 'red cell')
    assert [len(dataset(cfg, loader)) for loader in ('train', 'val')] == [8, 4]


def test_images_that_cannot_be_read(data, rejected, monkeypatch):
    own_data.class_folders(data)
    own_data.write(data / 'train' / '0.jpg', 'no image')
    own_data.write(data / 'train' / '1.jpg', '')
    (data / 'train' / '2.jpg').unlink()
    (data / 'train' / '2.jpg').symlink_to('nowhere.jpg')
    exif = Image.Exif()
    exif[0x112] = 6
    cut = own_data.photo(data / 'train' / '4.tif', exif=exif)
    cut.write_bytes(cut.read_bytes()[:5000])
    own_data.photo(data / 'train' / '5.jpg', size=(200, 200))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 15_000)
    said = rejected()
    for reason in ('0.jpg is not an', '1.jpg is empty', '2.jpg is missing', '4.tif', '5.jpg'):
        assert f'{data}/train/{reason}' in said


def test_folders_that_lack_images(data, rejected):
    own_data.class_folders(data / 'train', classes=('cell',))
    assert 'images of 1 class' in rejected('--format', 'folders')
    own_data.class_folders(data / 'val', classes=('cell', 'dust'))
    own_data.photo(data / 'alone.jpg')
    said = rejected('--format', 'folders')
    assert 'alone.jpg is in no folder of a class' in said
    assert 'train has no image of dust' in said


def test_images_and_photographed_masks_are_no_classes(data, rejected):
    own_data.class_folders(data, classes=('images', 'masks'))
    assert 'neither COCO JSON' in rejected()


def test_missing_package_is_named(data, rejected, monkeypatch):
    own_data.class_folders(data)
    monkeypatch.setattr(arguments, 'find_spec', lambda _: None)
    said = rejected(tried=True)
    assert said.startswith(f'training on {data}')
    assert 'mmatm[classification]' in said


# The command


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_the_config_trains_and_evaluates(task, data, make, tmp_path):
    if task == 'detection':
        own_data.voc(data)
        hard = own_data.voc_xml([('cell', 5, 5, 30, 30, 1), ('cell', 30, 5, 60, 30)])
        for at in range(6):
            own_data.write(data / 'Annotations' / f'{at}.xml', hard)
        make()
        options = ['train_cfg.max_epochs=1', 'model.test_cfg.score_thr=0']
        metric = 'coco/bbox_mAP_50'
    else:
        own_data.segnet(data, [0, 1, 11])
        make('--void', 11)
        options, metric = ['train_cfg.max_iters=2'], 'mIoU'
    work_dir = tmp_path / 'work'
    run(
        'tools/train.py', tmp_path / 'out' / 'mine.py', '--work-dir', work_dir, '--cfg-options',
        *options,
        *(f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val')),
        *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val')),
        'default_hooks.checkpoint.interval=9', 'train_cfg.val_interval=1',
    )  # fmt: skip
    assert scalars(work_dir)[-1][metric] >= 0


def test_nothing_is_overwritten_or_lost(data, make, tmp_path):
    own_data.voc(data)
    before = sorted(path.stat().st_mtime_ns for path in data.rglob('*'))
    make()
    out = tmp_path / 'out'
    (out / 'mine.py').write_text('mine')
    with pytest.raises(SystemExit, match='--force'):
        make()
    assert (out / 'mine.py').read_text() == 'mine'
    make('--force')
    (out / 'mine_data' / 'mmatm_new.json').unlink()
    with pytest.raises(SystemExit, match='did not write'):
        make('--force')
    with pytest.raises(SystemExit, match='is inside'):
        make('--data-out', data / 'new', '--force')
    assert sorted(path.stat().st_mtime_ns for path in data.rglob('*')) == before
    assert sorted(path.name for path in out.iterdir()) == ['mine.py', 'mine_data']


def test_places_that_cannot_be_written(data, rejected, tmp_path):
    own_data.voc(data)
    (tmp_path / 'file').touch()
    said = rejected('--data-out', tmp_path / 'file' / 'deep' / 'data')
    assert said.startswith(f'{tmp_path}/file/deep cannot be written')


@pytest.mark.parametrize(
    ('flags', 'reason'),
    [
        (('--head', 'upernet'), 'the heads are classifier'),
        (('--task', 'detection'), 'is for classification'),
        (('--train', 'more'), 'the splits are all'),
        (('--classes', 'red cell,blue'), 'the folders are red cell, train'),
        (('--format', 'coco'), 'no annotation file'),
        (('--format', 'labels'), 'by --labels'),
        (('--format', 'yolo'), 'give --classes NAME'),
        (('--format', 'yolo', '--classes', 'red cell'), 'no image can be used'),
        (('--classes', 'train,train'), 'different names'),
        (('--classes', 'a long name,' * 99 + 'b'), 'different names'),
        (('--void', '3,256'), "not '3,256'"),
        (('--void', 'sky'), "not 'sky'"),
        (('--val-share', '1'), "not '1'"),
        (('--minutes', 'few'), "not 'few'"),
        (('--pretrained', 'nowhere.pth'), 'nowhere.pth'),
        (('--out', 'mine.txt'), '--out mine.txt'),
    ],
)
def test_flags_that_do_not_fit(flags, reason, data, rejected):
    own_data.class_folders(data)
    assert reason in rejected(*flags)


def test_data_that_is_in_no_format_or_in_two(data, rejected, tmp_path):
    assert 'does not exist' in rejected()
    data.mkdir()
    assert 'holds no images' in rejected()
    own_data.photo(data / 'one.jpg')
    assert 'neither COCO JSON' in rejected()
    assert 'one.jpg must be a folder' in rejected(source=data / 'one.jpg')
    own_data.voc(data)
    own_data.coco(data)
    assert '--format coco' in rejected()


def test_files_that_appear_while_the_config_is_tried(data, make, tmp_path, monkeypatch):
    own_data.voc(data)
    other = tmp_path / 'out' / 'mine_data' / 'theirs.txt'
    monkeypatch.setattr(trial, 'try_config', lambda *_: own_data.write(other, '') and (1, 1))
    with pytest.raises(SystemExit, match=f'{other.parent} holds files'):
        make(tried=True)
    assert [*other.parent.iterdir()] == [other]


def test_with_and_without_a_gpu(data, make, tmp_path, monkeypatch, capsys):
    own_data.segnet(data, [0, 1, 255])
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    new.main([str(data), '--out', str(tmp_path / 'own.py'), '--no-try'])
    assert 'UperNet' in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert 's per image, a guess' in make('--device', 'cuda', '--minutes', 30, tried=True)[1]


def test_label_map_without_an_image_is_noted(data, tmp_path, capsys):
    own_data.segnet(data, [0, 1, 255])
    (data / 'train' / 'train_1.png').unlink()
    new.main([str(data), '--out', str(tmp_path / 'a.py'), '--no-try', '--device', 'cpu'])
    alone = data / 'trainannot' / 'train_1.png'
    assert f'note: 1 label maps have no image, such as {alone}' in capsys.readouterr().err


def test_label_maps_alone_are_no_classes(data, rejected):
    own_data.class_folders(data, classes=('SegmentationClass', 'SegmentationObject'))  # of CVAT
    assert 'neither COCO JSON' in rejected()


def test_yaml_of_yolo_without_names_is_passed_over(data, make):
    own_data.yolo(data, names=())
    own_data.write(data / 'data.yaml', 'path: .')
    own_data.write(data / 'cells.yaml', 'names: [blood cell]')
    assert make()[0].metainfo.classes == ('blood cell',)


@pytest.mark.parametrize('content', [b'names: [a', 'names: [\u00c4pfel]'.encode('latin-1')])
def test_yaml_of_yolo_that_cannot_be_read(content, data, rejected):
    own_data.yolo(data, names=())
    (data / 'data.yaml').write_bytes(content)
    assert f'{data}/data.yaml is not YAML' in rejected()


def test_run_goes_on_until_a_tool_fails(data, rejected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_data.voc(data)
    calls, failing = [], 'export'

    def run_tool(command, *arguments):
        calls.append((command, *map(str, arguments)))
        if command == 'train':
            own_data.write(Path('work_dirs/mine/last_checkpoint'), 'work_dirs/mine/epoch_3.pth')
            own_data.write(Path('work_dirs/mine/epoch_3.pth'), '')
        return 7 * (command == failing)

    def finish():
        flags = ['--no-try', '--device', 'cpu', '--force', '--run']
        with pytest.raises(SystemExit) as stopped:
            new.main([str(data), '--out', str(tmp_path / 'out' / 'mine.py'), *flags])
        return stopped.value.code

    monkeypatch.setattr(arguments, 'run_tool', run_tool)
    monkeypatch.setattr(new, 'find_spec', lambda name: True)
    assert finish() == 7
    assert calls == [
        ('train', f'{tmp_path}/out/mine.py'),
        ('report', 'work_dirs/mine'),
        ('export', f'{tmp_path}/out/mine.py', 'work_dirs/mine/epoch_3.pth',
         '--out', 'work_dirs/mine/mine.onnx'),
    ]  # fmt: skip
    assert 'work_dirs/mine of an earlier training exists' in finish()
    shutil.rmtree('work_dirs')
    monkeypatch.setattr(new, 'find_spec', lambda name: None)
    assert finish() == 0
    shutil.rmtree('work_dirs')
    failing = 'train'
    assert finish() == 7
    assert [call[0] for call in calls[3:]] == ['train', 'report', 'train']


RECIPES = {
    'retinanet': own_data.voc,
    'faster_rcnn': own_data.voc,
    'mask_rcnn': own_data.coco,
    'fpn': lambda data: own_data.segnet(data, [0, 1, 255]),
    'upernet': lambda data: own_data.segnet(data, [0, 1, 255]),
    'classifier': own_data.class_folders,
}


@pytest.mark.parametrize('fitting', [2, 0])
def test_batch_that_does_not_fit_into_a_gpu(fitting, data, make, rejected, monkeypatch):
    def try_config(file, device):
        if Config.fromfile(file).train_dataloader.batch_size > fitting:
            raise torch.cuda.OutOfMemoryError
        return 1.0, 1.0

    own_data.voc(data, number=10)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(trial, 'try_config', try_config)
    if not fitting:
        assert 'smaller --arch' in rejected('--device', 'cuda', tried=True)
        return
    cfg, said = make('--device', 'cuda', tried=True)
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 2
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4 / 2, rel=0.05)
    assert said.count('images per step') == 1


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
@pytest.mark.parametrize('head', RECIPES)
def test_every_recipe_builds(head, device, data, make):
    if head == 'classifier':
        pytest.importorskip('mmpretrain')
    RECIPES[head](data)
    arch = 'xt' if device == 'cpu' else 'l'  # which has other widths
    cfg, _ = make('--head', head, '--device', device, '--arch', arch)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    widths = model.backbone.widths
    assert widths == ((64, 128, 320, 512) if device == 'cpu' else (96, 192, 384, 768))
    dataset(cfg)
    levels = model.extract_feat(torch.rand(1, 3, 64, 64))
    assert len(levels)


def test_published_weights_are_found_by_size(data, make, rejected, tmp_path, monkeypatch):
    own_data.voc(data)
    monkeypatch.setenv('MMATM_WEIGHTS', str(tmp_path / 'weights'))
    assert str(tmp_path / 'weights' / 'atmnet_xt.pth') in rejected('--pretrained')
    own_data.write(tmp_path / 'weights' / 'atmnet_xt.pth', '')
    cfg, _ = make('--pretrained')
    assert cfg.model.backbone.init_cfg.checkpoint == str(tmp_path / 'weights' / 'atmnet_xt.pth')


def test_pretrained_weights(data, make, tmp_path):
    own_data.segnet(data, [0, 1, 255])
    weights = tmp_path / 'weights.pth'
    torch.save({'model': published_state_dict('xt', head=True)}, weights)
    cfg, _ = make('--pretrained', weights, tried=True)
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=str(weights))
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult < 1


@pytest.mark.parametrize('write', [own_data.voc, own_data.class_folders])
def test_folder_of_weights(write, data, make, tmp_path):
    pytest.importorskip('mmpretrain')
    write(data)
    weights = own_data.write(tmp_path / 'TEST' / 'weights.pth', '')
    cfg, _ = make('--pretrained', weights)
    assert cfg.model.backbone.init_cfg.checkpoint == str(weights)


def test_weights_of_another_model(data, rejected, tmp_path):
    own_data.segnet(data, [0, 1, 255])
    weights = tmp_path / 'weights.pth'
    torch.save({'model': published_state_dict('xt', head=True)}, weights)
    assert str(weights) in rejected('--pretrained', weights, '--arch', 't', tried=True)


def test_loss_that_is_not_finite_stops_the_trial(data, rejected, tmp_path):
    own_data.segnet(data, [0, 1, 255])
    weights = tmp_path / 'weights.pth'
    broken = {name: torch.full_like(v, 1e38) for name, v in published_state_dict('xt').items()}
    torch.save({'model': broken}, weights)
    assert 'in step 1 of a trial, ' in rejected('--pretrained', weights, tried=True)
