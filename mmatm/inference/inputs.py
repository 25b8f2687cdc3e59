"""Images from files, folders, URLs, videos and arrays, read one at a time."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname, urlopen

import cv2
import numpy as np

from ..data import check_file

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv', '.gif')
_EXACT = ('.mp4', '.avi', '.mov', '.m4v')  # these files state how many frames they hold
_TIMEOUT = 30  # seconds without an answer of a server


@dataclass
class Image:
    """An image, or the reason why it cannot be read.

    Attributes:
        name: path relative to the folder that was given, file name, ``VIDEO/FRAME``, or the number
            of an array.
        pixels: ``[H, W, 3]``, BGR, uint8; None if it cannot be read.
        problem: the reason.
        fps: frames per second of the video that it is from.
    """

    name: str
    pixels: Any
    problem: str = ''
    fps: float = 0.0


class Images:
    """The images that ``inputs`` names, read while they are iterated over.

    Args:
        inputs: a path of an image, video or folder; an ``http(s)://`` or ``file://`` URL of an
            image or video; an array ``[H, W, 3]`` or ``[H, W]``, BGR uint8; or an iterable of
            these.
        load: reads an image file into an array.
        recursive: whether to look into the folders of a folder.

    Attributes:
        total: number of images, as far as files tell; None for an iterator.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder holds no image and no video, or (while iterating) an array is no image.
        TypeError: an input is none of these.
    """

    def __init__(self, inputs: Any, load: Callable[[str], np.ndarray], recursive: bool = False):
        self.load, self.recursive = load, recursive
        if isinstance(inputs, (str, np.ndarray)) or not isinstance(inputs, Iterable):
            inputs = [inputs]
        self.items: Iterable = inputs
        self.total: int | None = None
        if isinstance(inputs, (list, tuple)):
            self.items = [found for item in inputs for found in self._expand(item)]
            self.total = sum(_length(item) for _, item in self.items)
        else:
            self.items = (found for item in inputs for found in self._expand(item))

    def __iter__(self) -> Iterator[Image]:
        arrays = 0
        for name, item in self.items:
            if isinstance(item, np.ndarray):
                yield Image(f'{arrays:06}', _to_bgr(item))
                arrays += 1
            elif '://' in item:
                yield from self._download(name, item)
            else:
                yield from self._read(name, item)

    def _expand(self, item: Any) -> list[tuple[str, Any]]:
        """Names and paths, URLs or arrays."""
        if isinstance(item, np.ndarray):
            return [('', item)]
        if not isinstance(item, (str, os.PathLike)):
            kind = type(item).__name__
            raise TypeError(f'an input must be a path, URL or array, but is of type {kind}')
        if urlparse(str(item)).scheme == 'file':
            item = url2pathname(urlparse(str(item)).path)
        elif '://' in str(item):
            return [(Path(unquote(urlparse(str(item)).path)).name or 'image', str(item))]
        path = Path(item)
        if path.is_dir():
            found = path.rglob('*') if self.recursive else path.iterdir()
            suffixes = IMAGES + VIDEOS
            files = sorted(p for p in found if p.suffix.lower() in suffixes and p.is_file())
            if not files:
                inside = not self.recursive and any(
                    p.suffix.lower() in suffixes for p in path.rglob('*')
                )
                hint = ', but folders in it do: look into them by --recursive' if inside else ''
                raise ValueError(f'{path} holds no images or videos ({" ".join(suffixes)}){hint}')
            return [(p.relative_to(path).as_posix(), str(p)) for p in files]
        if not path.exists():
            raise FileNotFoundError(f'{path} does not exist')
        return [(path.name, str(path))]

    def _read(self, name: str, path: str) -> Iterator[Image]:
        if Path(path).suffix.lower() in VIDEOS:
            yield from _frames(name, path)
            return
        try:
            check_file(path)
            yield Image(name, self.load(path))
        except Exception as error:  # decoders raise many types for invalid bytes
            reason = str(error).split('\n')[0] or type(error).__name__
            yield Image(name, None, reason if path in reason else f'{path}: {reason}')

    def _download(self, name: str, address: str) -> Iterator[Image]:
        with tempfile.NamedTemporaryFile(suffix=Path(name).suffix) as file:
            try:
                with urlopen(address, timeout=_TIMEOUT) as answer:
                    shutil.copyfileobj(answer, file)
                    if missing := getattr(answer, 'length', 0):
                        raise OSError(f'the last {missing} bytes are missing')
                file.flush()
            except (OSError, ValueError, HTTPException) as error:
                yield Image(name, None, f'{address} cannot be downloaded: {error}')
                return
            for image in self._read(name, file.name):
                image.problem = image.problem.replace(file.name, address)
                yield image


@contextmanager
def _opened(path: str) -> Iterator[cv2.VideoCapture]:
    video = cv2.VideoCapture(path)
    try:
        yield video
    finally:
        video.release()


def _length(item: Any) -> int:
    """Number of images in a file, as far as it tells."""
    if not isinstance(item, str) or '://' in item or Path(item).suffix.lower() not in VIDEOS:
        return 1
    with _opened(item) as video:
        return max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)


def _frames(name: str, path: str) -> Iterator[Image]:
    """The frames of a video. After one that cannot be decoded, OpenCV goes on with the next."""
    with _opened(path) as video:
        if not video.isOpened():
            yield Image(name, None, f'{path} cannot be read as a video')
            return
        expected = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = video.get(cv2.CAP_PROP_FPS)
        number, broken = 0, 0  # of the frame, and how many before it could not be read
        while True:
            found, pixels = video.read()
            if found:
                for k in range(number - broken, number):
                    yield Image(f'{name}/{k:06}', None, f'{path}: frame {k} cannot be read')
                broken = 0
                yield Image(f'{name}/{number:06}', pixels, fps=fps)
            elif number < expected:
                broken += 1
            else:
                break
            number += 1
        # Other files state a duration, which may be that of the sound.
        if broken and (Path(path).suffix.lower() in _EXACT or broken > fps):
            which = f'{number - broken} to {number - 1}' if broken > 1 else f'{number - 1}'
            yield Image(
                f'{name}/{number - broken:06}', None, f'{path}: frame {which} cannot be read'
            )


def _to_bgr(array: np.ndarray) -> np.ndarray:
    shape = array.shape
    if array.dtype != np.uint8 or len(shape) not in (2, 3) or 0 in shape or shape[2:] not in (
        (), (1,), (3,)
    ):  # fmt: skip
        raise ValueError(
            'an image must be a uint8 array [H, W, 3] or [H, W], but is '
            f'{array.dtype} {list(shape)}'
        )
    return array if shape[2:] == (3,) else cv2.cvtColor(array, cv2.COLOR_GRAY2BGR)
