"""Make small datasets for detection, segmentation and classification, without a download.

Every image is a random crop of a photograph (from scikit-image's wheel) with solid shapes on it:
circles, triangles, squares and stars. Scenes of one to three shapes, which may overlap, are written
in two layouts. Close-ups of single shapes, the same number per class, are written in a third:

    OUT/coco/annotations/instances_{train,val}2017.json    COCO instances, polygons
    OUT/coco/{train,val}2017/*.jpg
    OUT/coco/annotations/panoptic_{train,val}2017{.json,/*.png}    background as stuff
    OUT/ade20k/annotations/{training,validation}/*.png     0 ignore, 1 background, 2.. the shapes
    OUT/ade20k/images/{training,validation}/*.jpg
    OUT/imagenet/{train,val}/CLASS/*.jpg                   ImageNet, a folder per shape
    OUT/demo.json                                          arguments, class names, photographs

Training images are cut from the left part of the photographs and validation images from the right
part, so validation images contain no pixel of the training images. An image depends only on the
seed, its size, its split and its number: the same arguments give the same bytes, and a longer split
begins with the images of a shorter one.
"""

import argparse
import colorsys
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

CLASSES = ('circle', 'triangle', 'square', 'star')
# All are in the public domain, CC0 or free of known restrictions.
PHOTOGRAPHS = (
    'astronaut.png', 'brick.png', 'camera.png', 'chelsea.png', 'coffee.png', 'grass.png',
    'gravel.png', 'ihc.png', 'rocket.jpg',
)  # fmt: skip
TRAIN_SHARE = 0.6  # of the width of a photograph, from the left
SPLITS = ('train', 'val')
ADE_SPLITS = {'train': 'training', 'val': 'validation'}
SCALE = 4  # shapes are drawn this many times larger, for smooth edges and exact outlines
PARTS = {'demo.json', 'coco', 'ade20k', 'imagenet'}
MIN_VISIBLE = 0.25  # share of a shape that must stay visible
MAX_IMAGES = 10**6  # per split, so that image ids of the two splits differ

Instances = list[tuple[int, list[list[float]]]]  # (index into CLASSES, polygons) back to front


def backgrounds() -> dict[str, list[np.ndarray]]:
    """Read each split's part of the photographs, as (height, width, 3) uint8 BGR arrays."""
    try:
        from skimage import data_dir
    except ImportError:
        raise SystemExit(
            'error: the photographs come with scikit-image, which is not installed; '
            'get it by `pip install scikit-image`.'
        ) from None
    photos: dict[str, list[np.ndarray]] = {'train': [], 'val': []}
    for name in PHOTOGRAPHS:
        photo = cv2.imread(os.path.join(data_dir, name))
        if photo is None:
            raise SystemExit(f'error: scikit-image came without {name}; install it by pip.')
        cut = round(TRAIN_SHARE * photo.shape[1])
        photos['train'].append(photo[:, :cut])
        photos['val'].append(photo[:, cut:])
    return photos


def crop(rng: np.random.Generator, photo: np.ndarray, size: int) -> np.ndarray:
    """Cut a random square out of a photograph: (size, size, 3) float32.

    Flips, exposure and tint are random, to get many backgrounds from few photographs.
    """
    side = int(rng.uniform(0.15, 1) * min(photo.shape[:2]))
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
    square = photo[top : top + side, left : left + side]
    # Averaging is best for shrinking, but enlarges to blocks.
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    square = cv2.resize(square, (size, size), interpolation=method)
    square = square[:, ::-1] if rng.random() < 0.5 else square
    return square[..., rng.permutation(3)] * np.float32(rng.uniform(0.5, 1.2))


def outline(name: str) -> np.ndarray:
    """Return the corners of a shape inscribed in the unit circle: (corners, 2), x and y."""
    corners = {'circle': 128, 'triangle': 3, 'square': 4, 'star': 10}[name]
    angle = 2 * np.pi * np.arange(corners) / corners
    radius = np.ones(corners)
    radius[1::2] = 0.42 if name == 'star' else 1
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Trace a mask drawn `SCALE` times larger into COCO polygons, [x1, y1, x2, y2, ...] in pixels.

    A COCO polygon cannot have a hole, so a mask with one is cut in two through the hole.
    """
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    traced = []
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True):
        if parent >= 0:
            left, _, width, _ = cv2.boundingRect(contour)
            if width < 2 * SCALE:  # a speck between touching corners, finer than a pixel
                continue
            cut = round((left + width / 2) / SCALE) * SCALE  # between pixels: no pixel is lost
            is_left = (np.arange(mask.shape[1]) < cut).astype(np.uint8)
            return polygons(mask * is_left) + polygons(mask * (1 - is_left))
        corners = cv2.approxPolyDP(contour, 1, True)
        if cv2.contourArea(corners) >= SCALE**2:  # no crumbs below one pixel
            traced.append(((corners + 0.5) / SCALE).ravel().tolist())
    return traced


def draw_scene(
    rng: np.random.Generator, photo: np.ndarray, size: int, wanted: Sequence[int] | None = None
) -> tuple[np.ndarray, Instances]:
    """Draw shapes on a crop of a photograph: `wanted` (indices into `CLASSES`), or one to three
    random ones.

    Returns the image, (size, size, 3) uint8 BGR, and the visible part of each shape. Shapes that
    would hide too much of an earlier one are not drawn, so everything visible is annotated.
    """
    image = crop(rng, photo, size)
    rows, columns = np.mgrid[:size, :size]
    shapes = []  # class, area and visible part, the last two in fine pixels
    hue, count = rng.random(), len(wanted) if wanted else int(rng.integers(1, 4))
    for number in range(count):
        label = wanted[number] if wanted else int(rng.integers(len(CLASSES)))
        radius = rng.uniform(0.28, 0.56) / 2 * size
        center = rng.uniform(0.2, 0.8, 2) * size
        turn, light = rng.uniform(0, 2 * np.pi, 2)
        # Hues are spread around the wheel, so that overlapping shapes differ.
        tone = (hue + (number + rng.uniform(-0.25, 0.25)) / count) % 1
        color = 255 * np.array(colorsys.hsv_to_rgb(tone, *rng.uniform((0.55, 0.6), 1)))[::-1]

        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        corners = (center + radius * outline(CLASSES[label]) @ rotation) * SCALE - 0.5
        corners = np.round(corners).astype(np.int32)
        mask = np.zeros((size * SCALE, size * SCALE), np.uint8)
        cv2.fillPoly(mask, [corners], 1)

        after = [(*shape, visible & ~mask) for *shape, visible in shapes]
        after.append((label, cv2.contourArea(corners), mask))
        if any(visible.sum() < MIN_VISIBLE * area for _, area, visible in after):
            continue
        shapes = after

        slope = (columns - center[0]) * np.cos(light) + (rows - center[1]) * np.sin(light)
        paint = color * (1 + 0.15 * slope / radius)[..., None]
        alpha = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        image += alpha[..., None] * (paint - image)
    image = np.clip(np.round(image), 0, 255).astype(np.uint8)
    return image, [(label, polygons(visible)) for label, _, visible in shapes]


def annotate(
    instances: Instances, image_id: int, size: int
) -> tuple[list[dict], list[dict], np.ndarray, np.ndarray]:
    """Describe the instances of a scene as COCO annotations, panoptic ones and label maps.

    Area (pixels) and box (x, y, width, height) are computed from the polygons by pycocotools.

    Returns:
        The annotations; the segments of the panoptic map; that map, of segment ids; and the label
        map of ADE20K's layout. Both maps are (size, size) uint8. In the latter, pixels on both
        sides of an outline, which show a mixture, get the ignored label 0.
    """
    annotations = []
    owner = np.zeros((size, size), np.uint8)  # 0 for the background, else instance number + 1
    labels = np.array([1] + [label + 2 for label, _ in instances], np.uint8)
    for number, (label, outlines) in enumerate(instances, start=1):
        rle = coco_mask.merge(coco_mask.frPyObjects(outlines, size, size))
        owner[coco_mask.decode(rle) == 1] = number
        box, area = coco_mask.toBbox(rle).tolist(), float(coco_mask.area(rle))
        ids = {'id': image_id * 10 + number, 'image_id': image_id, 'category_id': label + 1}
        shape = {'segmentation': outlines, 'bbox': box, 'area': area, 'iscrowd': 0}
        annotations.append({**ids, **shape})
    segments = []
    for number in np.unique(owner).tolist():
        found = coco_mask.encode(np.asfortranarray(owner == number))
        category = annotations[number - 1]['category_id'] if number else len(CLASSES) + 1
        box, area = coco_mask.toBbox(found).tolist(), int(coco_mask.area(found))
        ids = {'id': number + 1, 'category_id': category}  # the id 0 means unlabeled
        segments.append({**ids, 'bbox': box, 'area': area, 'iscrowd': 0})
    label_map = labels[owner]
    around = np.ones((3, 3), np.uint8)
    label_map[cv2.dilate(owner, around) != cv2.erode(owner, around)] = 0
    return annotations, segments, owner + 1, label_map


def encode(image: np.ndarray) -> bytes:
    """Compress an image as JPEG."""
    return cv2.imencode('.jpg', image, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()


def write_scenes(
    root: Path, split: str, photos: list[np.ndarray], count: int, size: int, seed: int
) -> None:
    """Write `count` scenes of a split ('train' or 'val'), `size` pixels a side, under `root`."""
    index, ade_split = SPLITS.index(split), ADE_SPLITS[split]
    coco_images = root / 'coco' / f'{split}2017'
    ade_images = root / 'ade20k' / 'images' / ade_split
    ade_labels = root / 'ade20k' / 'annotations' / ade_split
    coco_json = root / 'coco' / 'annotations' / f'instances_{split}2017.json'
    panoptic = coco_json.with_name(f'panoptic_{split}2017')
    for folder in (coco_images, ade_images, ade_labels, panoptic):
        folder.mkdir(parents=True, exist_ok=True)

    images, annotations, panoptic_annotations = [], [], []
    for number in tqdm(range(count), desc=split, unit='image'):
        rng = np.random.default_rng([seed, index, number])
        image, instances = draw_scene(rng, photos[rng.integers(len(photos))], size)
        image_id = index * MAX_IMAGES + number + 1
        found, segments, segment_map, label_map = annotate(instances, image_id, size)
        annotations += found

        jpg, ade_name = coco_images / f'{image_id:012}.jpg', f'ADE_{split}_{number + 1:08}'
        names = {'id': image_id, 'license': 1, 'file_name': jpg.name}
        images.append({**names, 'height': size, 'width': size})
        jpg.write_bytes(encode(image))
        png = panoptic / f'{jpg.stem}.png'
        panoptic_annotations.append(
            {'image_id': image_id, 'file_name': png.name, 'segments_info': segments}
        )
        colors = np.zeros((size, size, 3), np.uint8)  # BGR, with the id in red
        colors[..., 2] = segment_map
        png.write_bytes(cv2.imencode('.png', colors)[1])
        (ade_labels / f'{ade_name}.png').write_bytes(cv2.imencode('.png', label_map)[1])
        try:
            os.link(jpg, ade_images / f'{ade_name}.jpg')
        except OSError:  # a file system without hard links
            shutil.copyfile(jpg, ade_images / f'{ade_name}.jpg')
    categories = [{'id': i, 'name': n, 'supercategory': 'shape'} for i, n in enumerate(CLASSES, 1)]
    document = {
        'info': {'description': f'Shapes on photographs, {split} split', 'version': '1.0'},
        'licenses': [{'id': 1, 'name': 'Public domain', 'url': ''}],
        'images': images,
        'annotations': annotations,
        'categories': categories,
    }
    coco_json.write_text(json.dumps(document))
    stuff = {'id': len(CLASSES) + 1, 'name': 'background', 'supercategory': 'background'}
    kinds = [{**each, 'isthing': 1} for each in categories] + [{**stuff, 'isthing': 0}]
    document |= {'annotations': panoptic_annotations, 'categories': kinds}
    panoptic.with_suffix('.json').write_text(json.dumps(document))


def close_up(
    rng: np.random.Generator, scene: np.ndarray, shapes: Instances, size: int
) -> np.ndarray:
    """Cut the surroundings of the shapes out of a scene: (size, size, 3) uint8.

    The shapes fill half to most of the image, like the objects in ImageNet.
    """
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for _, p in shapes for polygon in p])
    low, high = corners.min(0), corners.max(0)
    side = min(int(rng.uniform(1.15, 1.8) * (high - low).max()), len(scene))
    margin = rng.uniform(0.2, 0.8, 2) * (side - (high - low))
    left, top = np.clip(low - margin, 0, len(scene) - side).astype(int)
    return cv2.resize(
        scene[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA
    )


def write_single_shapes(
    root: Path, split: str, photos: list[np.ndarray], count: int, size: int, seed: int
) -> None:
    """Write `count` images of one shape of a split, `size` pixels a side, under `root`."""
    index = SPLITS.index(split)
    folders = [root / 'imagenet' / split / name for name in CLASSES]
    for folder in folders:
        folder.mkdir(parents=True)
    for number in tqdm(range(count), desc=f'imagenet {split}', unit='image'):
        rng = np.random.default_rng([seed, len(SPLITS) + index, number])  # none of the scenes'
        label = number % len(CLASSES)
        scene, shapes = draw_scene(rng, photos[rng.integers(len(photos))], 2 * size, [label])
        image = close_up(rng, scene, shapes, size)
        file = folders[label] / f'{CLASSES[label]}_{split}_{number + 1:08}.jpg'
        file.write_bytes(encode(image))


def holds(out: Path, card: dict) -> bool:
    """Whether `out` holds the dataset of `card`; OSError if `out` must not be replaced."""
    if not out.exists():
        return False
    names = {path.name for path in out.iterdir()}
    try:
        found = dict(json.loads((out / 'demo.json').read_text()))
    except (FileNotFoundError, TypeError, ValueError):  # missing, or written by another program
        found = {}
    # Folders written by other versions of this tool may be replaced.
    ours = str(found.get('tool')).startswith('make_demo_data ') and names <= PARTS
    if names and not ours and found != card:
        raise OSError('it holds files that this tool did not write; choose another --out')
    return found == card


def main(argv: list[str] | None = None) -> None:
    """Run the command line. The dataset appears at --out in one step, when it is complete."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument('--out', type=Path, default=Path('data/demo'), help='folder to write')
    fewest = len(CLASSES)
    numbers = {  # default, lowest, highest, meaning
        'train': (1440, 1, MAX_IMAGES, 'number of training scenes'),
        'val': (200, 1, MAX_IMAGES, 'number of validation scenes'),
        'size': (128, 32, 1024, 'side of a scene in pixels'),
        'imagenet-train': (4000, fewest, MAX_IMAGES, 'number of training images of one shape'),
        'imagenet-val': (400, fewest, MAX_IMAGES, 'number of validation images of one shape'),
        'imagenet-size': (64, 32, 1024, 'side of an image of one shape in pixels'),
        'seed': (0, 0, 2**32 - 1, 'another seed makes other images'),
    }
    for name, (default, _, _, meaning) in numbers.items():
        parser.add_argument(f'--{name}', type=int, default=default, help=meaning)
    args = parser.parse_args(argv)
    arguments = {name: getattr(args, name.replace('-', '_')) for name in numbers}
    for name, (_, low, high, _) in numbers.items():
        if not low <= arguments[name] <= high:
            parser.error(f'argument --{name}: expected {low} to {high}, got {arguments[name]}')

    card = {
        'tool': 'make_demo_data 3',  # raise the number when the images change
        'arguments': arguments,
        'coco_classes': list(CLASSES),
        'ade20k_classes': ['background', *CLASSES],
        'imagenet_classes': sorted(CLASSES),  # as readers of class folders number them
        'photographs': list(PHOTOGRAPHS),
        'train_share': TRAIN_SHARE,
    }
    out = args.out.resolve()
    try:
        if holds(out, card):
            print(f'{args.out} already holds this dataset: nothing to do.')
            return
        photos = backgrounds()
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as folder:
            build = Path(folder, 'new')
            for split, parts in photos.items():
                write_scenes(build, split, parts, arguments[split], args.size, args.seed)
                count = arguments[f'imagenet-{split}']
                write_single_shapes(build, split, parts, count, args.imagenet_size, args.seed)
            (build / 'demo.json').write_text(json.dumps(card, indent=2) + '\n')
            if out.exists():
                out.rename(Path(folder, 'old'))
            build.rename(out)
    except OSError as error:
        parser.error(f'argument --out: expected a folder to write, got {str(args.out)!r}: {error}')
    print(
        f'Wrote {args.train} + {args.val} scenes and {args.imagenet_train} + {args.imagenet_val} '
        f'images of one shape to {args.out}.'
    )


if __name__ == '__main__':
    main()
