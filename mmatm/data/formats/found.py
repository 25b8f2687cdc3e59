"""What a reader of a format needs and returns."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..images import check_file
from ..problems import DataError, Problem

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # from Pillow
IMAGES = frozenset(['.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'])
TASKS = ('detection', 'instance', 'segmentation', 'classification')


@dataclass
class Options:
    """What the user says about the data; None where reading has to find it.

    Attributes:
        task: one of :data:`TASKS`.
        classes: names of the classes, in order.
        table: file with the classes, and the colors or labels of label maps.
        void: labels of pixels that are ignored; empty for none.
        labels: folder of the label maps.
    """

    task: str | None = None
    classes: Sequence[str] | None = None
    table: Path | None = None
    void: Sequence[int] | None = None
    labels: Path | None = None


@dataclass
class Object:
    """An object on an image.

    Attributes:
        label: index into the classes.
        box: x, y, width, height in pixels.
        segmentation: polygons or run lengths as in COCO, if any.
        area: in pixels; that of the box by default.
        crowd: neither object nor background, as COCO's ``iscrowd``.
    """

    label: int
    box: tuple[float, float, float, float]
    segmentation: Any = None
    area: float | None = None
    crowd: bool = False


@dataclass
class Sample:
    """An image, its size (width, height) as decoded, and what its task needs of the rest."""

    image: Path
    size: tuple[int, int]
    objects: list[Object] = field(default_factory=list)
    label_map: Path | None = None
    pixels: dict[int, int] = field(default_factory=dict)  # number per class
    label: int | None = None

    @property
    def present(self) -> set[int]:
        """The classes on this image."""
        if self.label is not None:
            return {self.label}
        return {thing.label for thing in self.objects if not thing.crowd} | set(self.pixels)


@dataclass
class Found:
    """A data set that was read.

    Attributes:
        format: its name, for the user.
        task: one of :data:`TASKS`.
        classes: names, in the order of the labels.
        splits: samples of each split; ``all`` if there is none.
        problems: what is wrong, most of it by file.
        choices: what was decided and why, as two texts.
        palette: a color (R, G, B) per class, if the data has colors.
        scheme: how label maps are read, see :mod:`.label_maps`.
    """

    format: str
    task: str
    classes: list[str]
    splits: dict[str, list[Sample]]
    problems: list[Problem] = field(default_factory=list)
    choices: list[tuple[str, str]] = field(default_factory=list)
    palette: list[tuple[int, int, int]] | None = None
    scheme: Any = None


class Tree:
    """The files below a folder, without hidden ones.

    Args:
        root: the folder.

    Raises:
        DataError: it is missing or not a folder.
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            raise DataError(f'{root} is not a folder' if root.exists() else f'{root} is missing')
        self.root = root
        self.files: list[Path] = []
        seen = set()
        for folder, folders, names in os.walk(root, followlinks=True):
            place = os.path.realpath(folder)
            if place in seen:  # a symlink to a folder above
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(n for n in folders if n[0] != '.' and n != '__MACOSX')
            self.files += [Path(folder, n) for n in sorted(names) if n[0] != '.']

    @cached_property
    def images(self) -> list[Path]:
        """All images, label maps among them."""
        return self.having(*IMAGES)

    @cached_property
    def by_name(self) -> dict[str, list[Path]]:
        """Images by file name."""
        return _grouped(self.images, lambda path: path.name)

    @cached_property
    def by_stem(self) -> dict[str, list[Path]]:
        """Images by file name without suffix."""
        return _grouped(self.images, lambda path: path.stem)

    def having(self, *suffixes: str) -> list[Path]:
        """Files with one of these suffixes, upper or lower case."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def parts(self, path: Path) -> tuple[str, ...]:
        """The folders between the root and a file."""
        return path.relative_to(self.root).parts[:-1]


def _grouped(paths: Iterable[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return dict(groups)


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height that an image has when it is decoded.

    Raises:
        DataError: the file is missing, empty, truncated or not an image.
    """
    try:
        check_file(path)
        with Image.open(path) as image:
            if image.getexif().get(0x112, 1) < 5:  # not rotated
                return image.size
        array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        if array is None:
            raise ValueError('it has no pixels')
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f'{path} is missing') from None
    except UNREADABLE as error:
        raise DataError(f'{path} is not an image that can be read ({error})') from None
    return array.shape[1], array.shape[0]


_WORDS = 'trainval|train(?:ing)?|valid(?:ation)?|val|dev|test(?:ing)?'
_IN_NAME = re.compile(rf'(?:^|[^a-z])({_WORDS})(?:[^a-z]|$|annot|mask|label|image|img|gt)')
_NAME = re.compile(rf'({_WORDS})(?:[_-]?(?:list|images|files|ids|set|\d+))*')


def split_of(name: str, whole: bool = False) -> str | None:
    """Return the split that a folder or file is named for: train, trainval, val or test.

    Args:
        name: e.g. ``train2017`` or ``labels_val``.
        whole: whether nothing else may be in the name.
    """
    name = name.lower()
    match = _NAME.fullmatch(name) if whole else _IN_NAME.search(name)
    if match is None:
        return None
    word = match[1]
    return 'trainval' if word == 'trainval' else {'tr': 'train', 'te': 'test'}.get(word[:2], 'val')


def by_folder(tree: Tree, path: Path) -> str | None:
    """Return the split of the first folder that is named for one."""
    return next(filter(None, map(split_of, tree.parts(path))), None)


def assign_splits(
    tree: Tree, samples: Sequence[Sample], problems: list[Problem], prefer: str = ''
) -> dict[str, list[Sample]]:
    """Sort samples into splits, by their folders or else by lists in text files.

    Args:
        tree: the data set.
        samples: all samples.
        problems: gets what is wrong with the lists.
        prefer: name of the folder whose lists are used if there are several.

    Returns:
        samples of each split; ``all`` if nothing tells.
    """
    folders = [by_folder(tree, sample.image) for sample in samples]
    if any(folders):
        return _by_folders(samples, folders)
    lists = defaultdict(list)
    for path in tree.having('.txt'):
        if split := split_of(path.stem, whole=True):
            lists[split].append(path)
    splits = {}
    for split, paths in lists.items():
        paths.sort(key=lambda path: (path.parent.name != prefer, len(path.parts)))
        if found := read_list(paths[0], samples, problems):
            splits[split] = found
    if list(splits) == ['val']:  # a list of validation images alone means: train on the others
        chosen = {id(sample) for sample in splits['val']}
        splits['train'] = [sample for sample in samples if id(sample) not in chosen]
    return splits or {'all': list(samples)}


def _by_folders(
    samples: Sequence[Sample], folders: Sequence[str | None]
) -> dict[str, list[Sample]]:
    splits = defaultdict(list)
    for sample, split in zip(samples, folders, strict=True):
        splits[split].append(sample)
    if stray := splits.pop(None, None):
        raise DataError(
            f'{len(stray)} images are in no folder of a split, such as {stray[0].image}, but '
            f'others are in those of {", ".join(map(str, splits))}: move them'
        )
    return {str(split): found for split, found in splits.items()}


def read_list(file: Path, samples: Sequence[Sample], problems: list[Problem]) -> list[Sample]:
    """Return the samples that a text file lists by path, name or name without suffix."""
    names, stems = defaultdict(list), defaultdict(list)
    for sample in samples:
        names[sample.image.name].append(sample)
        stems[sample.image.stem].append(sample)
    found, unknown = {}, []
    for number, line in enumerate(file.read_text(errors='replace').splitlines(), start=1):
        if not line.strip():
            continue
        for name in (line.strip(), line.split()[0]):
            matches = names.get(Path(name).name) or stems.get(Path(name).name, [])
            if len(matches) > 1:
                matches = [m for m in matches if m.image.as_posix().endswith(name.lstrip('./'))]
            if len(matches) == 1:
                found[id(matches[0])] = matches[0]
                break
        else:
            unknown.append(
                Problem('missing', f'{file}, line {number}: {line.strip()} has no usable image')
            )
    if found:
        problems += unknown
    return list(found.values())


def enumerated(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number lines from 1 and leave out empty ones."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.strip()
