"""``mmatm new``: from messy folders to configs that train, or to the reason why not."""

import dataclasses
import functools
import json

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
        flags = [*map(str, flags), '--device', 'cpu', *([] if tried else ['--no-try'])]
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
    everything = [thing for s in ('train', 'val') for thing in annotations(cfg, s)['annotations']]
    # VOC counts from 1, and what reaches out of the image is cut.
    assert [0, 0, 29, 29] in [thing['bbox'] for thing in everything]
    (crowd,) = [thing for thing in everything if thing['iscrowd']]
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
    own_data.voc(data)
    own_data.write(data / 'Annotations' / '0.xml', '<annotation><object>')
    own_data.write(data / 'Annotations' / '1.xml', own_data.voc_xml([('a', 'x', 1, 2, 3)]))
    own_data.write(data / 'Annotations' / '2.xml', own_data.voc_xml([('a', 200, 1, 300, 30)]))
    own_data.write(data / 'Annotations' / '3.xml', own_data.voc_xml([], size=(48, 64)))
    (data / 'JPEGImages' / '4.jpg').unlink()
    own_data.photo(data / 'JPEGImages' / '5.png')
    own_data.write(data / 'Annotations' / '5.xml', own_data.voc_xml([], filename='5.tif'))
    said = rejected()
    assert '0.xml is not XML' in said
    assert "1.xml: object 1, 'a', has no box" in said
    assert '2.xml: object 1, a, has the box [200.0, 1.0, 300.0, 30.0], outside the image' in said
    assert '3.xml: the image has 48 x 64 pixels, but its annotations are for 64 x 48' in said
    assert '4.xml has no image' in said
    assert '5.xml could be of' in said


def test_voc_file_name_decides_between_suffixes(data, make):
    own_data.voc(data)
    own_data.photo(data / 'JPEGImages' / '5.png')  # 5.xml names 5.jpg
    cfg, _ = make()
    names = [
        image['file_name'] for s in ('train', 'val') for image in annotations(cfg, s)['images']
    ]
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
    everything = [thing for s in ('train', 'val') for thing in annotations(cfg, s)['annotations']]
    assert len(everything) == 6
    assert [44.8, 12.0, 19.2, 24.0] in [thing['bbox'] for thing in everything]
    images = [image for s in ('train', 'val') for image in annotations(cfg, s)['images']]
    assert len(images) == 7
    assert '1 reach beyond their image' in said
    assert 'there was one split' in said


@pytest.mark.parametrize('style', ['split below', 'split above', 'lists', 'beside'])
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
    else:
        own_data.yolo(data, folder='obj_train_data', names=())
        own_data.write(data / 'obj.names', 'cell\n')
    cfg, _ = make()
    counts = [len(annotations(cfg, split)['images']) for split in ('train', 'val')]
    assert counts == {'lists': [5, 1], 'beside': [5, 1]}.get(style, [6, 6])
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
    own_data.class_folders(data / 'train')
    own_data.class_folders(data / 'test', number=2)
    cfg, _ = make()
    assert [len(dataset(cfg, loader)) for loader in ('train', 'val')] == [8, 4]


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
    own_data.voc(data)
    own_data.coco(data)
    assert '--format coco' in rejected()


RECIPES = {
    'retinanet': own_data.voc,
    'faster_rcnn': own_data.voc,
    'mask_rcnn': own_data.coco,
    'fpn': lambda data: own_data.segnet(data, [0, 1, 255]),
    'upernet': lambda data: own_data.segnet(data, [0, 1, 255]),
    'classifier': own_data.class_folders,
}


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


def test_weights_of_another_model(data, rejected, tmp_path):
    own_data.segnet(data, [0, 1, 255])
    weights = tmp_path / 'weights.pth'
    torch.save({'model': published_state_dict('xt', head=True)}, weights)
    assert str(weights) in rejected('--pretrained', weights, '--arch', 't', tried=True)
