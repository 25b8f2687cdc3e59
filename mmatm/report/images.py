"""Images, masks and colours for the page."""

import base64
import colorsys
from collections.abc import Mapping
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.fileio import get

BUDGET = 6_500_000  # bytes of all images together, before base64
_SIDES = (1024, 800, 640, 480, 360, 256, 160)  # longest side, tried in this order
# Okabe and Ito's colours, which people with any colour vision tell apart.
_OURS = ('E69F00', '56B4E9', '009E73', 'F0E442', '0072B2', 'D55E00', 'CC79A7', '7F7F7F')


def colours(metainfo: Mapping[str, Any], count: int) -> list[str]:
    """The dataset's palette as ``#rrggbb``, else one of our own."""
    palette = metainfo.get('palette')
    if isinstance(palette, (list, tuple)) and len(palette) >= count:
        return ['#{:02x}{:02x}{:02x}'.format(*map(int, colour)) for colour in palette[:count]]
    if count <= len(_OURS):
        return [f'#{colour.lower()}' for colour in _OURS[:count]]
    # Steps of the golden ratio never come back to a hue; three lightnesses part the neighbours.
    hues = (i * 0.618034 % 1 for i in range(count))
    made = (colorsys.hls_to_rgb(hue, (0.4, 0.55, 0.7)[i % 3], 0.75) for i, hue in enumerate(hues))
    return ['#' + ''.join(f'{round(255 * value):02x}' for value in rgb) for rgb in made]


def sides(items: list, count: int) -> tuple[list, list]:
    """Half of ``count`` items from the front of a sorted list, and from its back, last first."""
    count = min(count, len(items))
    return items[: -(-count // 2)], items[len(items) - count // 2 :][::-1]


def encode(paths: list[str]) -> list[tuple[str, int, int]]:
    """Read images, and encode them so that all fit :data:`BUDGET`.

    Returns:
        For each its ``data:`` address, and the width and height of the file.
    """
    images = [mmcv.imfrombytes(get(path)) for path in paths]
    files: list[bytes] = []
    for side in _SIDES:
        files = [_jpeg(image, side) for image in images]
        if sum(map(len, files)) <= BUDGET:
            break
    return [
        (f'data:image/jpeg;base64,{base64.b64encode(file).decode()}', i.shape[1], i.shape[0])
        for file, i in zip(files, images, strict=True)
    ]


def _jpeg(image: np.ndarray, side: int) -> bytes:
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = [max(round(scale * length), 1) for length in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def png(pixels: np.ndarray) -> str:
    """An RGB image, ``[H, W, 3]``, without loss, as a ``data:`` address."""
    file = cv2.imencode('.png', pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    return f'data:image/png;base64,{base64.b64encode(file.tobytes()).decode()}'


def outline(mask: np.ndarray) -> str:
    """The outlines of a mask, ``[H, W]``, as the path of an SVG, in pixels of the image."""
    y, x = np.nonzero(mask)
    if not len(y):
        return ''
    top, left = y.min(), x.min()
    part = np.pad(mask[top : y.max() + 1, left : x.max() + 1].astype(np.uint8) * 255, 1)
    scale = 4 if max(part.shape) < 160 else 1  # rounds the steps between pixels
    larger = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    contours, _ = cv2.findContours(
        (larger > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    path = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, 0.3 * scale, closed=True)[:, 0]
        if len(points) > 2:
            points = ((points + 0.5) / scale - 1 + (left, top)).round(1)
            path.append('M' + ' '.join(f'{a:g},{b:g}' for a, b in points) + 'Z')
    return ''.join(path)
