"""YOLO: one text file per image, and the names of the classes in YAML or text."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from ..problems import DataError, Problem
from .found import (
    Found,
    Object,
    Options,
    Sample,
    Tree,
    assign_splits,
    enumerated,
    image_size,
    read_list,
)

NAME = 'YOLO'
_NAME_FILES = ('classes.txt', 'obj.names', 'names.txt', 'labels.txt')


def matches(tree: Tree) -> bool:
    """Whether an image has a text file that begins as labels do."""
    files = filter(None, map(_labels_of, tree.images))
    first = next((path for path in files if path.stat().st_size), None)
    return first is not None and _begins_with_label(first)


def _settings_file(tree: Tree) -> Path | None:
    files = tree.having('.yaml', '.yml')
    found = [p for p in files if 'names' in (_load(p) or {})]
    found = found or [p for p in files if p.stem == 'data']  # which may be broken
    found.sort(key=lambda path: len(path.parts))
    if len(found) > 1 and len(found[0].parts) == len(found[1].parts):
        raise DataError(f'{found[0]} and {found[1]} both name classes: give one of them as DATA')
    return found[0] if found else None


def _names_file(tree: Tree) -> Path | None:
    return next((path for path in tree.files if path.name in _NAME_FILES), None)


def _load(path: Path) -> dict | None:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8-sig'))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def read(tree: Tree, options: Options, file: Path | None = None) -> Found:
    """Read all labels of a folder, or of the YAML ``file``; see :class:`.Found`."""
    problems: list[Problem] = []
    settings_file = file or _settings_file(tree)
    settings = _load(settings_file) if settings_file else {}
    if settings is None:
        raise DataError(f'{settings_file} is not YAML with settings by name, in UTF-8')
    if not tree.images and settings_file:  # the file is elsewhere
        tree = Tree(settings_file.parent / str(settings.get('path') or ''))
    ids = _names(tree, settings_file, settings, options)
    numbers = list(ids)
    samples: dict[Path, Sample] = {}
    polygons = boxes = 0
    label_files = {image: _labels_of(image) for image in tree.images}
    _reject_shared(label_files)
    folders = {image.parent for image, labels in label_files.items() if labels}
    cut = 0
    for image, labels in tqdm(label_files.items(), desc='images', disable=None):
        if image.parent not in folders:  # such as a preview, or a split without labels
            continue
        try:
            sample = Sample(image, image_size(image))
            for number, line in enumerated(_lines(labels)):
                try:
                    thing, sticks_out = _object(line, numbers, sample.size)
                except ValueError as error:
                    raise DataError(f'{labels}, line {number}: {error}') from None
                if min(thing.box[2:]) < 1:
                    what = f'{labels}, line {number} is left out: it is smaller than a pixel'
                    problems.append(Problem('note', what))
                    continue
                cut += sticks_out
                polygons += thing.segmentation is not None
                boxes += thing.segmentation is None
                sample.objects.append(thing)
            samples[image] = sample
        except DataError as error:
            problems.append(Problem('broken', str(error)))
    used = {labels for labels in label_files.values() if labels}
    without = [p for p in tree.having('.txt') if _is_label_file(p) and p not in used]
    problems += [Problem('missing', f'{path} has no image') for path in without]
    task, why = _task(boxes, polygons, options)
    choices = [('task', why)]
    if task == 'detection':
        for sample in samples.values():
            for thing in sample.objects:
                thing.segmentation = None
    if cut:
        choices.append(('boxes', f'{cut} reach beyond their image and are cut there'))
    splits = _splits(tree, settings_file, settings, list(samples.values()), problems)
    return Found(NAME, task, list(ids.values()), splits, problems, choices)


def _names(tree: Tree, file: Path | None, settings: dict, options: Options) -> dict[int, str]:
    """Names of the classes by number."""
    if 'names' in settings:
        names, where = settings['names'], file
        names = dict(enumerate(names)) if isinstance(names, list) else names
        try:
            found = {int(key): str(value) for key, value in names.items()}
        except (AttributeError, TypeError, ValueError):
            raise DataError(f'{file}: names must be a list, or numbers and names') from None
        number = settings.get('nc', len(found))
        if number != len(found):
            raise DataError(f'{file}: nc is {number}, but there are {len(found)} names')
    elif path := _names_file(tree):
        where = path
        found = dict(enumerate(line for _, line in enumerated(_lines(path))))
    else:
        found, where = dict(enumerate(options.classes or [])), None
    if not found:
        raise DataError('no file names the classes of the YOLO labels: give --classes NAME,NAME')
    twice = [name for name, number in Counter(found.values()).items() if number > 1]
    if twice:
        raise DataError(f'{where} has the name {twice[0]!r} twice')
    if options.classes and list(found.values()) != list(options.classes):
        if len(options.classes) != len(found):
            raise DataError(f'--classes has {len(options.classes)} names, but {where} {len(found)}')
        found = dict(zip(found, options.classes, strict=True))
    return dict(sorted(found.items()))


def _labels_of(image: Path) -> Path | None:
    """The label file of an image: in ``labels`` where its path has ``images``, or beside it."""
    parts = list(image.parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at].lower() == 'images':
            path = Path(*parts[:at], 'labels', *parts[at + 1 :]).with_suffix('.txt')
            if path.is_file():
                return path
    beside = image.with_suffix('.txt')
    if beside.is_file() and beside.name not in _NAME_FILES:
        return beside
    path = image.parent / 'labels' / f'{image.stem}.txt'
    return path if path.is_file() else None


def _is_label_file(path: Path) -> bool:
    """Whether a file is in a folder of labels and begins as labels do."""
    if path.name in _NAME_FILES or 'labels' not in map(str.lower, path.parts[:-1]):
        return False
    return _begins_with_label(path)


def _begins_with_label(path: Path) -> bool:
    words = path.read_text(errors='replace').split(maxsplit=5)[:5]
    try:
        return len(list(map(float, words))) == 5
    except ValueError:
        return False


def _reject_shared(label_files: dict[Path, Path | None]) -> None:
    owners: dict[Path, Path] = {}
    for image, labels in label_files.items():
        if labels is None:
            continue
        if labels in owners:
            raise DataError(f'{owners[labels]} and {image} share {labels}: rename one of them')
        owners[labels] = image


def _lines(path: Path | None) -> list[str]:
    return path.read_text(errors='replace').splitlines() if path else []


def _object(line: str, numbers: list[int], size: tuple[int, int]) -> tuple[Object, bool]:
    """Parse a line; ValueError says what is wrong with it."""
    fields = line.split()
    try:
        label, values = float(fields[0]), list(map(float, fields[1:]))
    except ValueError:
        raise ValueError(f'expected numbers, but found {line[:80]!r}') from None
    if label not in numbers:
        raise ValueError(
            f'the class is {fields[0]}, but the classes have the numbers {numbers[0]} to '
            f'{numbers[-1]}'
        )
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f'expected a box of 4 or a polygon of at least 6 coordinates, but found {len(values)}'
        )
    if not all(-0.005 <= value <= 1.005 for value in values):
        wrong = next(value for value in values if not -0.005 <= value <= 1.005)
        raise ValueError(f'coordinates must be fractions of the image, from 0 to 1, not {wrong:g}')
    width, height = size
    index = numbers.index(int(label))
    if len(values) == 4:
        x, y, w, h = values
        edges = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        sticks_out = min(edges) < -0.005 or max(edges) > 1.005
        x1, y1, x2, y2 = (min(max(edge, 0.0), 1.0) for edge in edges)
        box = (x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height)
        return Object(index, tuple(round(v, 2) for v in box)), sticks_out  # type: ignore[arg-type]
    xs = [round(min(max(value, 0.0), 1.0) * width, 2) for value in values[::2]]
    ys = [round(min(max(value, 0.0), 1.0) * height, 2) for value in values[1::2]]
    polygon: list[float] = [value for point in zip(xs, ys, strict=True) for value in point]
    turned = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    area = abs(sum(x1 * y2 - x2 * y1 for x1, y1, x2, y2 in turned)) / 2
    box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    return Object(index, box, [polygon], max(area, 1e-3)), False


def _task(boxes: int, polygons: int, options: Options) -> tuple[str, str]:
    if options.task == 'instance' and boxes:
        raise DataError(f'--task instance: {boxes} labels are boxes without a polygon')
    if options.task in ('detection', 'instance'):
        return options.task, 'as --task says'
    if boxes and polygons:
        raise DataError(
            f'{boxes} labels are boxes and {polygons} are polygons: say --task detection to train '
            'on the boxes of all of them'
        )
    if polygons:
        return 'instance', 'every label is a polygon'
    return 'detection', 'every label is a box'


def _splits(
    tree: Tree, file: Path | None, settings: dict, samples: list[Sample], problems: list[Problem]
) -> dict[str, list[Sample]]:
    """Samples by the splits that the YAML file names, or else by folders and lists."""
    splits: dict[str, list[Sample]] = {}
    for split in ('train', 'val', 'test'):
        entries: Any = settings.get(split) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            assert file is not None
            place = _place(file, settings, str(entry))
            if place is None:
                what = f'{file}: {split} is {entry}, which is missing; a split is made if need be'
                problems.append(Problem('note', what))
            elif place.suffix == '.txt':
                splits.setdefault(split, []).extend(read_list(place, samples, problems))
            else:
                inside = [s for s in samples if place.resolve() in s.image.resolve().parents]
                splits.setdefault(split, []).extend(inside)
    splits = {split: found for split, found in splits.items() if found}
    return splits or assign_splits(tree, samples, problems)


def _place(file: Path, settings: dict, entry: str) -> Path | None:
    """A folder or list of the YAML file, relative to ``path`` or to the file itself."""
    above = [file.parent, file.parent / str(settings.get('path') or '')]
    # Exports for another layout begin with ../ where the folder is beside the file.
    for name in (entry, entry.removeprefix('../'), entry.removeprefix('./')):
        for folder in reversed(above):
            place = folder / name
            if place.is_dir() or (place.is_file() and place.suffix == '.txt'):
                return place
    return None
