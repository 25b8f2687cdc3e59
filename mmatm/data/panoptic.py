"""Checks of COCO's panoptic annotations: a JSON file, and PNG files with the ids of segments."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .problems import DataError, Problem, limited


def read_panoptic(file: Path) -> dict:
    """Read the JSON file.

    Raises:
        DataError: the file cannot be read or is not in the format. The message names it.
    """
    try:
        content = json.loads(file.read_bytes())
        for image in content['images']:
            _ = hash(image['id']), image['file_name'], image['height'], image['width']
        for category in content['categories']:
            _ = hash(category['id']), category['name'], category['isthing']
        for annotation in content['annotations']:
            _ = hash(annotation['image_id']), Path(annotation['file_name'])
            for segment in annotation['segments_info']:
                _ = hash(segment['id']), hash(segment['category_id'])
                _ = segment['area'] + sum(segment['bbox'])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f'{type(error).__name__}: {error}'
        raise DataError(f'{file} is not a panoptic annotation file of COCO ({reason})') from error
    return content


def check_panoptic_annotations(content: dict, file: Path) -> Iterator[Problem]:
    """Find the problems of what :func:`read_panoptic` returned from ``file``."""
    images = {image['id'] for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    described = Counter(annotation['image_id'] for annotation in content['annotations'])
    found = [f'lists no segments of image {i!r}' for i in images if i not in described]
    found += [f'has the unlisted image {i!r}' for i in described if i not in images]
    found += [f'has image {i!r} twice' for i, count in described.items() if count > 1]
    for annotation in content['annotations']:
        of = f'of image {annotation["image_id"]!r}'
        counts = Counter(segment['id'] for segment in annotation['segments_info'])
        found += [f'has segment {i!r} {of} twice' for i, count in counts.items() if count > 1]
        found += [
            f'has segment {segment["id"]!r} {of} in the unlisted category '
            f'{segment["category_id"]!r}'
            for segment in annotation['segments_info']
            if segment['category_id'] not in categories
        ]
    yield from limited(Problem('broken', f'{file} {problem}') for problem in found)


def panoptic_map_problem(path: Path, annotation: dict, size: tuple[int, int]) -> str:
    """Return what is wrong with a PNG file; empty if nothing is.

    Args:
        path: the file.
        annotation: its entry in the JSON file.
        size: height and width of the image, in pixels.
    """
    colors: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if colors is None:
        return 'cannot be decoded'
    if colors.ndim != 3 or colors.shape[2] != 3 or colors.dtype != np.uint8:
        return 'must have three channels of 8 bits'
    if colors.shape[:2] != size:
        return (
            f'is {colors.shape[0]} x {colors.shape[1]} pixels, but its image {size[0]} x {size[1]}'
        )
    ids = np.unique(colors.astype(np.int64) @ (256**2, 256, 1))  # BGR; red is the lowest byte
    drawn = set(ids[ids > 0].tolist())
    listed = {segment['id'] for segment in annotation['segments_info']}
    if drawn == listed:
        return ''
    return f'holds the segments {sorted(drawn)}, but {sorted(listed)} are listed'
