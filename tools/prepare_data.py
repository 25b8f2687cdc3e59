#!/usr/bin/env python
"""Check a downloaded dataset and link it to where the configs expect it:
python tools/prepare_data.py DATASET ROOT

Lists everything that is missing or broken, and links only complete datasets. Annotations that mmdet
leaves out are only noted.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from mmatm.cli.numbers import at_least
from mmatm.data import (
    DataError,
    Problem,
    check_coco_annotations,
    check_file,
    check_label_map_file,
    check_panoptic_annotations,
    limited,
    panoptic_map_problem,
    read_coco,
    read_panoptic,
)

COCO_COUNTS = {'train2017': 118287, 'val2017': 5000}
PANOPTIC_CLASSES = 133
LVIS_COUNTS = {'train': 100170, 'val': 19809}
LVIS_CLASSES = 1203
STUFF_CLASSES = 171
CITYSCAPES_COUNTS = {'train': 2975, 'val': 500}
CITYSCAPES_CLASSES = 19
ADE_COUNTS = {'training': 20210, 'validation': 2000}
ADE_CLASSES = 150
IMAGENET_COUNTS = {'train': 1281167, 'val': 50000}
IMAGENET_CLASSES = 1000
IMAGES = ('.jpeg', '.jpg', '.png')  # in the class folders of ImageNet, upper or lower case
LINKS = {
    'coco': Path('coco'),
    'coco_panoptic': Path('coco'),
    'lvis': Path('lvis_v1'),
    'coco_stuff164k': Path('coco_stuff164k'),
    'cityscapes': Path('cityscapes'),
    'ade20k': Path('ade', 'ADEChallengeData2016'),
    'imagenet': Path('imagenet'),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('dataset', choices=sorted(LINKS))
    parser.add_argument('root', type=Path, help='folder of the unpacked download')
    parser.add_argument('--data', type=Path, default=Path('data'), help='folder for the symlink')
    parser.add_argument(
        '--subset', action='store_true', help='accept fewer images than in the complete dataset'
    )
    parser.add_argument(
        '--samples', type=at_least(0), default=200, help='images to decode per split; 0 for all'
    )
    args = parser.parse_args(argv)
    if not args.root.is_dir():
        sys.exit(f'{args.root} is not a folder')

    check = {
        'coco': check_coco,
        'coco_panoptic': check_coco_panoptic,
        'lvis': check_lvis,
        'coco_stuff164k': check_coco_stuff,
        'ade20k': check_ade20k,
        'cityscapes': check_cityscapes,
        'imagenet': check_imagenet,
    }[args.dataset]
    problems = list(check(args.root, args.subset, args.samples))
    if problems:
        print(*problems, sep='\n', file=sys.stderr)
    if any(problem.is_fatal for problem in problems):
        sys.exit(f'{args.root} is not a complete {args.dataset} dataset; nothing was linked')
    link(args.root.resolve(), args.data / LINKS[args.dataset])


def check_coco(root: Path, subset: bool, samples: int) -> Iterator[Problem]:
    """Find the problems of a COCO 2017 download."""
    for split, count in COCO_COUNTS.items():
        folder, file = root / split, root / 'annotations' / f'instances_{split}.json'
        missing = [path for path in (folder, file) if not path.exists()]
        yield from (Problem('missing', str(path)) for path in missing)
        if missing:
            continue
        try:
            content = read_coco(file)
        except DataError as error:
            yield Problem('broken', str(error))
            continue
        images = content['images']
        if not subset and len(images) != count:
            yield Problem('incomplete', f'{file} lists {len(images)} images instead of {count}')
        evaluated = split.startswith('val')
        yield from check_coco_annotations(content, file, masks=True, evaluated=evaluated)
        yield from _listed_images(content['images'], folder, samples)


def check_coco_panoptic(root: Path, subset: bool, samples: int) -> Iterator[Problem]:
    """Find the problems of a COCO 2017 download with panoptic annotations."""
    for split, count in COCO_COUNTS.items():
        maps = root / 'annotations' / f'panoptic_{split}'
        folder, file = root / split, maps.with_suffix('.json')
        missing = [path for path in (folder, file, maps) if not path.exists()]
        yield from (Problem('missing', str(path)) for path in missing)
        if missing:
            continue
        try:
            content = read_panoptic(file)
        except DataError as error:
            yield Problem('broken', str(error))
            continue
        images, classes = content['images'], len(content['categories'])
        if not subset and len(images) != count:
            yield Problem('incomplete', f'{file} lists {len(images)} images instead of {count}')
        if not subset and classes != PANOPTIC_CLASSES:
            yield Problem(
                'incomplete', f'{file} lists {classes} classes instead of {PANOPTIC_CLASSES}'
            )
        yield from check_panoptic_annotations(content, file)
        sizes = {image['id']: (image['height'], image['width']) for image in images}
        paths = {maps / each['file_name']: each for each in content['annotations']}
        absent = sorted(str(path) for path in paths if not path.is_file())
        yield from limited(Problem('missing', path) for path in absent)
        present = [path for path in paths if path.is_file()]
        wrong = []
        for path in tqdm(_drawn(present, samples), desc=maps.name, disable=None):
            size = sizes.get(paths[path]['image_id'], (0, 0))
            if problem := panoptic_map_problem(path, paths[path], size):
                wrong.append(Problem('broken', f'{path} {problem}'))
        yield from limited(wrong)
        yield from _listed_images(images, folder, samples)


def check_lvis(root: Path, subset: bool, samples: int) -> Iterator[Problem]:
    """Find the problems of LVIS v1 next to the images of COCO 2017."""
    for split, count in LVIS_COUNTS.items():
        file = root / 'annotations' / f'lvis_v1_{split}.json'
        # Both splits have images of both folders of COCO.
        missing = [path for path in (file, root / 'train2017') if not path.exists()]
        yield from (Problem('missing', str(path)) for path in missing)
        if missing:
            continue
        try:
            content = read_coco(file, lvis=True)
        except DataError as error:
            yield Problem('broken', str(error))
            continue
        images, classes = content['images'], len(content['categories'])
        if not subset and len(images) != count:
            yield Problem('incomplete', f'{file} lists {len(images)} images instead of {count}')
        if not subset and classes != LVIS_CLASSES:
            yield Problem('incomplete', f'{file} lists {classes} classes instead of {LVIS_CLASSES}')
        evaluated = split == 'val'
        yield from check_coco_annotations(content, file, masks=True, evaluated=evaluated)
        yield from _listed_images(images, root, samples)


def check_ade20k(root: Path, subset: bool, samples: int) -> Iterator[Problem]:
    """Find the problems of an ADE20K (scene parsing challenge 2016) download."""
    for split, count in ADE_COUNTS.items():
        yield from _labeled_images(
            (root / 'images' / split, '.jpg'), (root / 'annotations' / split, '.png'),
            0 if subset else count, range(ADE_CLASSES + 1), samples,
        )  # fmt: skip


def check_coco_stuff(root: Path, subset: bool, samples: int) -> Iterator[Problem]:
    """Find the problems of COCO-Stuff 164k with the label maps that mmseg makes of it."""
    for split, count in COCO_COUNTS.items():
        yield from _labeled_images(
            (root / 'images' / split, '.jpg'),
            (root / 'annotations' / split, '_labelTrainIds.png'),
            0 if subset else count, range(STUFF_CLASSES), samples,
            "mmseg's tools/dataset_converters/coco_stuff164k.py makes it",
        )  # fmt: skip


def check_cityscapes(root: Path, subset: bool, samples: int) -> Iterator[Problem]:
    """Find the problems of Cityscapes with the label maps that its own scripts make."""
    for split, count in CITYSCAPES_COUNTS.items():
        yield from _labeled_images(
            (root / 'leftImg8bit' / split, '_leftImg8bit.png'),
            (root / 'gtFine' / split, '_gtFine_labelTrainIds.png'),
            0 if subset else count, range(CITYSCAPES_CLASSES), samples,
            'csCreateTrainIdLabelImgs of cityscapesScripts makes it',
        )  # fmt: skip


def _labeled_images(
    images_at: tuple[Path, str],
    maps_at: tuple[Path, str],
    count: int,
    labels: range,
    samples: int,
    maker: str = '',
) -> Iterator[Problem]:
    """Find the problems of images and label maps, which both may be in one folder per city.

    Args:
        images_at: folder of the images, and how their names end.
        maps_at: the same of the label maps.
        count: number of images, or 0 for any.
        labels: what a label map may hold; and 255, unless it begins with an ignored 0.
        samples: number of images to decode, 0 for all.
        maker: how a missing label map is made.
    """
    (folder, image_end), (label_folder, map_end) = images_at, maps_at
    missing = [path for path in (folder, label_folder) if not path.is_dir()]
    yield from (Problem('missing', str(path)) for path in missing)
    if missing:
        return
    images, maps = (
        {
            str(path.relative_to(top)).removesuffix(end): path
            for path in sorted(top.rglob(f'*{end}'))
        }
        for top, end in (images_at, maps_at)
    )
    if not images or (count and len(images) != count):
        yield Problem('incomplete', f'{folder} holds {len(images)} images instead of {count}')
    hint = f'; {maker}' if maker else ''
    yield from limited(
        Problem('missing', f'{label_folder / key}{map_end}{hint}')
        for key in images
        if key not in maps
    )
    yield from limited(
        Problem('missing', f'{folder / key}{image_end}') for key in maps if key not in images
    )
    ignored = 255 if maker else None
    allowed = f'0 to {labels[-1]}' + (f' and {ignored}' if ignored else '')
    broken, sizes = [], {}
    for key, path in tqdm(maps.items(), desc=str(label_folder.name), disable=None):
        try:
            check_file(path)
            check_label_map_file(path)
            with Image.open(path) as image:  # as mmseg does
                label = np.asarray(image)
        except (DataError, OSError, SyntaxError) as error:
            broken.append(Problem('broken', f'{path} cannot be decoded ({error})'))
            continue
        highest = label[label != ignored].max(initial=0)
        if highest not in labels:
            said = f'{path} must hold values {allowed}, but has values up to {highest}'
            broken.append(Problem('broken', said))
        if key in images:
            sizes[images[key].name] = label.shape
    yield from limited(broken)
    yield from _broken_images(list(images.values()), samples, sizes)


def check_imagenet(root: Path, subset: bool, samples: int) -> Iterator[Problem]:
    """Find the problems of an ImageNet-1k download with one folder per class."""
    folders = {split: root / split for split in IMAGENET_COUNTS}
    missing = [folder for folder in folders.values() if not folder.is_dir()]
    yield from (Problem('missing', str(folder)) for folder in missing)
    if missing:
        return
    images: dict[str, dict[str, list[Path]]] = {}
    for split, folder in folders.items():
        entries = sorted(folder.iterdir())
        stray = [path.name for path in entries if not path.is_dir()]
        if stray:
            yield Problem(
                'broken',
                f'{folder} holds {len(stray)} files outside the folders of the classes, such as '
                f'{stray[0]}; unpack archives, and move each image into the folder of its class',
            )
        images[split] = {
            path.name: [file for file in path.iterdir() if file.suffix.lower() in IMAGES]
            for path in entries
            if path.is_dir()
        }
    classes = sorted(set().union(*images.values()))
    if not subset and len(classes) != IMAGENET_CLASSES:
        yield Problem(
            'incomplete', f'{root} has {len(classes)} classes instead of {IMAGENET_CLASSES}'
        )
    for split, folder in folders.items():
        found = images[split]
        yield from limited(
            Problem('missing', str(folder / name)) for name in classes if name not in found
        )
        yield from limited(
            Problem('incomplete', f'{folder / name} holds no image')
            for name in found
            if not found[name]
        )
        paths = sorted(path for files in found.values() for path in files)
        if not paths or (not subset and len(paths) != IMAGENET_COUNTS[split]):
            yield Problem(
                'incomplete',
                f'{folder} holds {len(paths)} images instead of {IMAGENET_COUNTS[split]}',
            )
        yield from _broken_images(paths, samples)


def _listed_images(images: list[dict], folder: Path, samples: int) -> Iterator[Problem]:
    """Find missing and broken images among those of an annotation file."""
    paths = {image['file_name']: folder / image['file_name'] for image in images}
    folders = {path.parent for path in paths.values()}
    there = {path for each in folders if each.is_dir() for path in each.iterdir()}
    absent = sorted(str(path) for path in paths.values() if path not in there)
    yield from limited(Problem('missing', path) for path in absent)
    sizes = {Path(i['file_name']).name: (i['height'], i['width']) for i in images}
    yield from _broken_images([p for p in paths.values() if p in there], samples, sizes)


def _drawn(paths: list[Path], samples: int) -> list[Path]:
    """A number of random paths, 0 for all."""
    if samples and samples < len(paths):
        return random.Random(0).sample(paths, samples)
    return paths


def _broken_images(
    paths: list[Path], samples: int, sizes: dict[str, tuple[int, int]] | None = None
) -> Iterator[Problem]:
    """Decode ``samples`` random images (0 for all) and find those that are broken."""
    broken = []
    for path in tqdm(_drawn(paths, samples), desc='images', disable=None):
        try:
            check_file(path)
        except (DataError, OSError) as error:  # e.g. a symlink to nothing
            broken.append(Problem('broken', str(error)))
            continue
        # Decodes and applies the EXIF rotation as mmcv does.
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            broken.append(Problem('broken', f'{path} cannot be decoded'))
        elif sizes and image.shape[:2] != sizes.get(path.name, image.shape[:2]):
            broken.append(
                Problem(
                    'broken',
                    f'{path} is {image.shape[0]} x {image.shape[1]} pixels, but the annotations '
                    f'say {sizes[path.name][0]} x {sizes[path.name][1]}',
                )
            )
    yield from limited(broken)


def link(root: Path, place: Path) -> None:
    """Make ``place`` a symlink to ``root``, unless something else is there."""
    if place.resolve() == root:
        print(f'{root} is complete and in its place, {place}')
        return
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        sys.exit(f'{root} is complete, but {place} exists and is not a symlink; move it away')
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(root, target_is_directory=True)
    print(f'{root} is complete; linked to {place}')


if __name__ == '__main__':
    main()
