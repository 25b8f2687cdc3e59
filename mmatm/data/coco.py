"""Checks of COCO annotation files, with clearer messages than those of mmdet or pycocotools."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from .problems import DataError, Problem, limited

KEYS = ('id', 'image_id', 'category_id', 'bbox', 'area')
_MOST = 20  # unused annotations that are named
_COCO_URL = 'http://images.cocodataset.org/'


def read_coco(file: Path, lvis: bool = False) -> dict:
    """Read an annotation file.

    Args:
        file: its path.
        lvis: whether it is LVIS v1, whose images have the end of ``coco_url`` as ``file_name``.

    Raises:
        DataError: the file cannot be read or is not in COCO's format. The message names it.
    """
    try:
        content = json.loads(file.read_bytes())
        content.setdefault('annotations', [])  # COCO's own files of test images have none
        for image in content['images']:
            _ = hash(image['id']), image['height'], image['width']
            if lvis:
                image['file_name'] = image['coco_url'].removeprefix(_COCO_URL)
            _check_text(image['file_name'])
        for category in content['categories']:
            _ = hash(category['id'])
            _check_text(category['name'])
        for annotation in content['annotations']:
            hash(tuple(annotation.get(key) for key in KEYS[:3]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f'{type(error).__name__}: {error}'
        raise DataError(f'{file} is not a COCO annotation file ({reason})') from error
    return content


def _check_text(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f'a name must be text, but is {name!r}')


def check_coco_annotations(
    content: dict, file: Path, masks: bool, evaluated: bool, classes: Collection[str] | None = None
) -> Iterator[Problem]:
    """Find the problems of a COCO annotation file; notes are about what mmdet handles itself.

    Args:
        content: what :func:`read_coco` returned.
        file: its path, for the messages.
        masks: whether segmentations are used.
        evaluated: whether pycocotools evaluates on the file; otherwise it is trained on.
        classes: names of the categories that are used; all by default.
    """
    for name in ('images', 'categories', 'annotations'):
        count = Counter(entry['id'] for entry in content[name] if 'id' in entry)
        twice = [f'{key!r}' for key, number in count.items() if number > 1]
        yield from limited(
            Problem('broken', f'{file} lists the id {key} of {name} twice') for key in twice
        )

    for image in content['images']:
        extent = [image['height'], image['width']]
        if not _are_numbers(extent) or min(extent) < 1:
            yield Problem('broken', f'image {image["id"]!r} of {file} has the size {extent}')
            return
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    categories = {category['id']: category['name'] for category in content['categories']}
    broken, unused = [], []
    any_used = False
    for annotation in content['annotations']:
        lacking = [key for key in KEYS if key not in annotation]
        if lacking:
            problem = f'lacks {", ".join(lacking)}'
        elif annotation['image_id'] not in sizes:
            problem = f'is of image {annotation["image_id"]!r}, which is not listed'
        elif annotation['category_id'] not in categories:
            problem = f'is of category {annotation["category_id"]!r}, which is not listed'
        elif not _are_numbers(annotation['bbox'], 4):
            problem = f'has the box {annotation["bbox"]!r} instead of four finite numbers'
        elif not _are_numbers([annotation['area']], 1):
            problem = f'has the area {annotation["area"]!r} instead of a finite number'
        else:
            size = sizes[annotation['image_id']]
            problem = _mask_problem(annotation, size, evaluated) if masks else ''
            if _is_far(annotation['bbox'], size):
                problem = f'has the box {annotation["bbox"]}, far outside the image'
            chosen = classes is None or categories[annotation['category_id']] in classes
            if chosen and not problem:
                if reason := _why_unused(annotation, size, masks):
                    unused.append(f'{annotation["id"]} ({reason})')
                elif not annotation.get('iscrowd'):
                    any_used = True
        if problem:
            name = f'annotation {annotation.get("id")!r} of {file}'
            broken.append(Problem('broken', f'{name} {problem}'))
    yield from limited(broken)
    if unused:
        more = ', ...' if len(unused) > _MOST else ''
        yield Problem(
            'note',
            f'{len(unused)} of {len(content["annotations"])} annotations of {file} are left out by '
            f'mmdet: {", ".join(unused[:_MOST])}{more}',
        )
    if not any_used and not broken:
        of = '' if classes is None else f' of the classes {", ".join(map(repr, classes))}'
        yield Problem('broken', f'{file} has no usable annotation{of}')


def _mask_problem(annotation: dict, size: tuple[int, int], evaluated: bool) -> str:
    """Return what is wrong with a segmentation, given the image size; empty if nothing is."""
    mask = annotation.get('segmentation')
    if not mask:
        return 'has no segmentation'
    if isinstance(mask, list):
        if not all(_are_numbers(polygon) for polygon in mask):
            return 'has polygons that are not lists of finite numbers'
        if any(_is_far(polygon, size) for polygon in mask):
            return 'has a polygon that reaches far outside the image'
        # pycocotools decides by the first polygon how to read all of them.
        if evaluated and len(mask[0]) < 6:
            return f'has a polygon of {len(mask[0])} coordinates, but at least 6 are needed'
        return ''
    if not isinstance(mask, dict) or not {'size', 'counts'} <= mask.keys():
        return 'has a segmentation that is neither polygons nor run lengths'
    if mask['size'] != list(size):
        return f'has a mask of {mask["size"]} pixels, but the image has {list(size)}'
    try:
        counts = mask['counts']
        runs = _runs(counts) if isinstance(counts, str) else counts
        fits = min(runs) >= 0 and sum(runs) == size[0] * size[1]
    except (ValueError, TypeError, IndexError):
        fits = False
    return '' if fits else f'has run lengths that do not add up to {size[0]} x {size[1]} pixels'


def _runs(counts: str) -> list[int]:
    """Decode the run lengths of a compressed mask.

    pycocotools is not used, because it fills the rest of a mask with uninitialized memory if there
    are too few runs.

    A number consists of digits of 5 bits, least significant first. The sixth bit says whether
    another digit follows. From the fourth number on, each is stored as the difference from the
    number two places earlier.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        digit = ord(character) - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:  # the sign
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError('the last number has no end')
    return runs


def _why_unused(annotation: dict, size: tuple[int, int], masks: bool) -> str:
    """Return why mmdet does not train on this annotation; empty if it does."""
    (height, width), (x, y, w, h) = size, annotation['bbox']
    if annotation.get('ignore'):
        return 'marked to be ignored'
    if w < 1 or h < 1 or annotation['area'] <= 0:
        return f'box {annotation["bbox"]} and area {annotation["area"]} are too small'
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        return f'box {annotation["bbox"]} has no area inside the image'
    mask = annotation.get('segmentation')
    if masks and isinstance(mask, list) and all(len(p) % 2 or len(p) < 6 for p in mask):
        return 'no polygon has three points'
    return ''


def _is_far(values: list[float], size: tuple[int, int]) -> bool:
    """Whether a coordinate is so far outside that pycocotools would run out of memory."""
    return max(map(abs, values), default=0) > 10 * max(size)


def _are_numbers(values: Any, count: int | None = None) -> bool:
    """Whether ``values`` is a list of (``count``) finite numbers."""
    try:
        return (
            isinstance(values, list)
            and (count is None or len(values) == count)
            and math.isfinite(sum(values))
        )
    except (TypeError, OverflowError):
        return False
