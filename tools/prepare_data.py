#!/usr/bin/env python
"""Check a downloaded dataset and link it to where the configs expect it:
python tools/prepare_data.py {coco,ade20k,imagenet} ROOT

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

from mmatm.data import (
    DataError,
    Problem,
    check_coco_annotations,
    check_file,
    check_label_map_file,
    limited,
    read_coco,
)

COCO_COUNTS = {'train2017': 118287, 'val2017': 5000}
ADE_COUNTS = {'training': 20210, 'validation': 2000}
ADE_CLASSES = 150
IMAGENET_COUNTS = {'train': 1281167, 'val': 50000}
IMAGENET_CLASSES = 1000
IMAGES = ('.jpeg', '.jpg', '.png')  # in the class folders of ImageNet, upper or lower case
LINKS = {
    'coco': Path('coco'),
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
        '--samples', type=int, default=200, help='images to decode per split; 0 for all'
    )
    args = parser.parse_args(argv)
    if args.samples < 0:
        parser.error(f'--samples must be at least 0, but is {args.samples}')
    if not args.root.is_dir():
        sys.exit(f'{args.root} is not a folder')

    check = {'coco': check_coco, 'ade20k': check_ade20k, 'imagenet': check_imagenet}[args.dataset]
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
        there = {path.name for path in folder.iterdir()}
        names = [image['file_name'] for image in images]
        absent = sorted(set(names) - there)
        yield from limited(Problem('missing', str(folder / name)) for name in absent)
        sizes = {image['file_name']: (image['height'], image['width']) for image in images}
        present = [name for name in names if name in there]
        yield from _broken_images([folder / n for n in present], samples, sizes)


def check_ade20k(root: Path, subset: bool, samples: int) -> Iterator[Problem]:
    """Find the problems of an ADE20K (scene parsing challenge 2016) download."""
    for split, count in ADE_COUNTS.items():
        folder, labels = root / 'images' / split, root / 'annotations' / split
        missing = [path for path in (folder, labels) if not path.is_dir()]
        yield from (Problem('missing', str(path)) for path in missing)
        if missing:
            continue
        images = {path.stem: path for path in sorted(folder.glob('*.jpg'))}
        maps = {path.stem: path for path in sorted(labels.glob('*.png'))}
        if not images or (not subset and len(images) != count):
            yield Problem('incomplete', f'{folder} holds {len(images)} images instead of {count}')
        yield from limited(Problem('missing', f'{labels / s}.png') for s in images if s not in maps)
        yield from limited(Problem('missing', f'{folder / s}.jpg') for s in maps if s not in images)
        broken, sizes = [], {}
        for path in tqdm(maps.values(), desc=f'annotations/{split}', disable=None):
            try:
                check_file(path)
                check_label_map_file(path)
                with Image.open(path) as image:  # as mmseg does
                    label = np.asarray(image)
            except (DataError, OSError, SyntaxError) as error:
                broken.append(Problem('broken', f'{path} cannot be decoded ({error})'))
                continue
            if label.max() > ADE_CLASSES:
                broken.append(
                    Problem(
                        'broken',
                        f'{path} must hold values 0 to {ADE_CLASSES}, but has values up to '
                        f'{label.max()}',
                    )
                )
            if path.stem in images:
                sizes[images[path.stem].name] = label.shape
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


def _broken_images(
    paths: list[Path], samples: int, sizes: dict[str, tuple[int, int]] | None = None
) -> Iterator[Problem]:
    """Decode ``samples`` random images (0 for all) and find those that are broken."""
    if samples and samples < len(paths):
        paths = random.Random(0).sample(paths, samples)
    broken = []
    for path in tqdm(paths, desc='images', disable=None):
        try:
            check_file(path)
        except DataError as error:
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
