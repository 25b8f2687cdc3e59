"""Folders of label maps: the label of each pixel as a number, a palette index or a color."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..images import check_file
from ..problems import DataError, Problem
from .class_table import Color, Row, find_table, read_table
from .found import UNREADABLE, Found, Options, Sample, Tree, assign_splits, by_folder, image_size

NAME = 'label maps'
VOID = 255
_VOID_NAMES = {'void', 'unlabeled', 'unlabelled', 'ignore', 'ignored', 'ignore label'}
_FLAT = 0.75  # share of pixels that equal their left neighbor, from which an image is a label map
_TAIL = re.compile(
    r'[_.-](?:masks?|labels?|gt|seg|annot\w*|P|L|gt[A-Z]\w+_(?:color|\w+Ids))$', re.IGNORECASE
)
_HINT = re.compile(r'mask|label|annot|gt|seg|truth|target', re.IGNORECASE)
_OTHER = re.compile(r'object|instance|_color', re.IGNORECASE)  # numbered, or drawn from labels
_UNKNOWN = 254  # in a table of labels: neither a class nor void


@dataclass
class Scheme:
    """How label maps are read.

    Attributes:
        table: ``[256]`` uint8, the class of each label, :data:`VOID` if it is ignored; None for
            colors.
        colors: the class of each color.
        ignore_index: label that is ignored, if the files can be used as they are.
        reduce_zero_label: whether label 0 is ignored and the classes begin at 1.
        linked: whether the files can be used as they are.
    """

    table: np.ndarray | None = None
    colors: dict[Color, int] = field(default_factory=dict)
    ignore_index: int = VOID
    reduce_zero_label: bool = False
    linked: bool = False


def matches(tree: Tree) -> bool:
    """Whether some folder holds images and another their label maps."""
    return bool(_pairs(tree, None))


def read(tree: Tree, options: Options) -> Found:
    """Read all label maps; see :class:`.Found`.

    Raises:
        DataError: labels can be understood in several ways. The message names the flag that says.
    """
    pairs = _pairs(tree, options.labels)
    if not pairs:
        raise DataError(
            f'{tree.root} has no folder of images with label maps of the same names in another: '
            'name the folder of label maps by --labels'
        )
    problems: list[Problem] = []
    maps = {image: path for image, path in pairs.items() if path}
    used, groups = {*maps.values()}, {_group(path) for path in maps.values()}
    if alone := [p for p in tree.images if _group(p) in groups and p not in used]:
        what = f'{len(alone)} label maps have no image, such as {alone[0]}'
        problems.append(Problem('note', what))
    samples, values = _decode(maps, problems)
    if not samples:
        return Found(NAME, 'segmentation', [], {}, problems)
    is_color = any(len(next(iter(found), (0,))) == 3 for found in values.values())
    rows, where = _rows(tree, options)
    rows = _by_palette(rows, values)
    if is_color:
        if options.void is not None:
            raise DataError(
                '--void names labels, but the label maps hold colors: name a color "void" in the '
                'table of classes to ignore it'
            )
        classes, scheme, palette, choices = _by_color(rows, where, values, samples, problems)
    else:
        classes, scheme, palette, choices = _by_label(rows, where, values, options, problems)
    for sample, path in samples:
        for value, number in values[path].items():
            label = scheme.colors.get(value) if is_color else int(scheme.table[value[0]])  # type: ignore
            if label is not None and label < len(classes):
                sample.pixels[label] = sample.pixels.get(label, 0) + number
    usable = [sample for sample, _ in samples]
    splits = assign_splits(tree, usable, problems, prefer='Segmentation')
    if lacking := _lacking(tree, pairs, usable):
        # Lists of the splits say which images count; VOC has many without a label map.
        by_lists = 'all' not in splits and not any(by_folder(tree, s.image) for s in usable)
        what = f'{len(lacking)} images have no label map, such as {lacking[0]}'
        problems.append(Problem('note' if by_lists else 'missing', what))
    return Found(NAME, 'segmentation', classes, splits, problems, choices, palette, scheme)


def _lacking(tree: Tree, pairs: dict[Path, Path | None], samples: Sequence[Sample]) -> list[Path]:
    """Images without a label map in splits of which other images have one."""
    splits = {by_folder(tree, sample.image) for sample in samples}
    return [i for i, path in pairs.items() if path is None and by_folder(tree, i) in splits]


Group = tuple[Path, bool, str]  # folder, whether its files are JPEG, and how their names end
Keyed = dict[str, list[Path]]


def _group(path: Path) -> Group:
    tail = match[0] if (match := _TAIL.search(path.stem)) else ''
    return path.parent, path.suffix.lower() in ('.jpg', '.jpeg'), tail


def _pairs(tree: Tree, chosen: Path | None) -> dict[Path, Path | None]:
    """Images and their label maps; None where the images beside have one."""
    groups: dict[Group, list[Path]] = defaultdict(list)
    for path in tree.images:
        groups[_group(path)].append(path)
    maps = _map_groups(tree, groups, chosen)
    rest = [group for group in groups if group not in maps]
    if chosen is not None:  # other label maps are no images
        rest = [group for group in rest if group[1] or not _are_flat(groups[group])] or rest
    others: dict[Path, list[Path]] = defaultdict(list)
    for group in rest:
        others[group[0]] += groups[group]
    for shorten in (False, True):
        images = {folder: _keys(paths, '', shorten) for folder, paths in others.items()}
        partner: dict[Path, list[tuple[Group, Keyed]]] = defaultdict(list)
        for group in maps:
            keys = _keys(groups[group], group[2], shorten)
            if folder := _partner(tree, group[0], keys, images):
                partner[folder].append((group, keys))
        if partner:
            return _matched(images, partner)
    return {}


def _map_groups(tree: Tree, groups: dict[Group, list[Path]], chosen: Path | None) -> list[Group]:
    """The groups of label maps."""
    if chosen is not None:
        place = chosen if chosen.is_absolute() else tree.root / chosen
        inside = [g for g in groups if place == g[0] or place in g[0].parents]
        if not inside:
            raise DataError(f'--labels {chosen}: no image is in {place}')
        return inside
    if len(groups) < 2:
        return []
    flat = [group for group, paths in groups.items() if not group[1] and _are_flat(paths)]
    if len(flat) < len(groups):
        return flat
    # Drawings, or black photographs: go by the names.
    hinted = [g for g in flat if _HINT.search('/'.join([*tree.parts(groups[g][0]), g[2]]))]
    return hinted if len(hinted) < len(flat) else []


def _matched(
    images: dict[Path, Keyed], partner: dict[Path, list[tuple[Group, Keyed]]]
) -> dict[Path, Path | None]:
    """The label map of each image in folders that have a partner."""
    pairs: dict[Path, Path | None] = {}
    for folder, maps in partner.items():
        plain = [entry for entry in maps if not _OTHER.search(entry[0][0].name + entry[0][2])]
        maps = plain or maps
        if len(maps) > 1:
            names = ' and '.join(str(group[0]) for group, _ in maps[:2])
            raise DataError(f'{names} both hold label maps for {folder}: name one by --labels')
        for key, found in images[folder].items():
            labels = maps[0][1].get(key, [])
            if len(found) > 1 and labels:
                raise DataError(f'{found[0]} and {found[1]} share {labels[0]}: rename one of them')
            if len(labels) > 1:
                raise DataError(f'{found[0]} could have {labels[0]} or {labels[1]}: delete one')
            pairs[found[0]] = labels[0] if labels else None
    return pairs


def _keys(paths: Sequence[Path], tail: str, shorten: bool) -> Keyed:
    """Files by name without ``tail``; if ``shorten``, without any ending that all share."""
    if shorten and not tail and len(paths) > 1:
        ends = [re.search(r'[_.-][A-Za-z]\w*$', path.stem) for path in paths]
        shared = {match[0] if match else '' for match in ends}
        tail = shared.pop() if len(shared) == 1 else ''
    groups: Keyed = defaultdict(list)
    for path in paths:
        groups[path.stem.removesuffix(tail)].append(path)
    return groups


def _partner(tree: Tree, place: Path, keys: Keyed, images: dict[Path, Keyed]) -> Path | None:
    """The folder of images that most of the label maps in ``place`` belong to."""
    split = by_folder(tree, next(iter(keys.values()))[0])

    def rank(folder: Path) -> tuple[int, bool, int]:
        image = next(iter(images[folder].values()))[0]
        alike = {*folder.parts} & {*place.parts}
        return len(keys.keys() & images[folder].keys()), by_folder(tree, image) == split, len(alike)

    best = max(images, key=rank, default=None)
    return best if best is not None and rank(best)[0] else None


def _are_flat(paths: Sequence[Path]) -> bool:
    """Whether images consist of areas of one color each, as label maps do."""
    shares = []
    for path in paths[:: max(1, len(paths) // 3)][:3]:
        try:
            with Image.open(path) as image:
                array = np.asarray(image)
        except UNREADABLE:
            continue
        if array.ndim < 2 or array.shape[1] < 2:
            continue
        same = array[:, 1:] == array[:, :-1]
        shares.append((same.all(-1) if same.ndim == 3 else same).mean())
    return bool(shares) and min(shares) > _FLAT


def decode(path: Path) -> np.ndarray:
    """Read a label map: ``[H, W]`` labels, or ``[H, W, 3]`` uint8 colors that are not all gray.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        check_file(path)
        with Image.open(path) as image:
            if image.mode in ('RGBA', 'LA', 'PA', 'CMYK'):
                image = image.convert('L' if image.mode == 'LA' else 'RGB')
            array = np.asarray(image)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f'{path} is not an image that can be read ({error})') from None
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.ndim == 3 and (array == array[..., :1]).all():
        return array[..., 0]
    return array


def _is_plain(path: Path) -> bool:
    """Whether mmseg reads a label map as it is."""
    with Image.open(path) as image:
        return image.mode in ('L', 'P')


Values = dict[tuple[int, ...], int]  # pixels per label or color


def _decode(
    maps: dict[Path, Path], problems: list[Problem]
) -> tuple[list[tuple[Sample, Path]], dict[Path, Values]]:
    """Read all images' sizes and all label maps."""
    samples, values = [], {}
    for image, path in tqdm(maps.items(), desc='label maps', disable=None):
        try:
            size, labels = image_size(image), decode(path)
            if labels.shape[1::-1] != size:
                raise DataError(
                    f'{path} has {labels.shape[1]} x {labels.shape[0]} pixels, but its image '
                    f'{image} has {size[0]} x {size[1]}'
                )
            values[path] = _count(labels, path)
            samples.append((Sample(image, size, label_map=path), path))
        except DataError as error:
            problems.append(Problem('broken', str(error)))
    colored = [path for path, found in values.items() if len(next(iter(found))) == 3]
    if colored and len(colored) < len(values):  # a map may be all gray by chance
        for path, found in values.items():
            if path not in colored:
                values[path] = {key * 3: number for key, number in found.items()}
    return samples, values


def _count(labels: np.ndarray, path: Path) -> Values:
    if labels.ndim == 3:
        codes = labels[..., 0].astype(np.uint32) << 16 | labels[..., 1].astype(np.uint32) << 8
        found, numbers = np.unique(codes | labels[..., 2], return_counts=True)
        return {
            (int(code >> 16), int(code >> 8 & 255), int(code & 255)): int(number)
            for code, number in zip(found, numbers, strict=True)
        }
    found, numbers = np.unique(labels, return_counts=True)
    if found[0] < 0 or found[-1] > 255:
        raise DataError(f'{path} holds labels from {found[0]} to {found[-1]}, but 255 is the most')
    return {(int(v),): int(n) for v, n in zip(found, numbers, strict=True)}


def _rows(tree: Tree, options: Options) -> tuple[list[Row], str]:
    """The classes that the user or a table names, and where."""
    if options.classes:
        return [Row(name) for name in options.classes], '--classes'
    path = options.table or find_table(tree)
    return (read_table(path), str(path)) if path else ([], '')


def _by_palette(rows: list[Row], values: dict[Path, Values]) -> list[Row]:
    """Number the classes of a table of colors by the palette that the label maps have."""
    with Image.open(next(iter(values))) as image:
        if image.mode != 'P' or not rows or rows[0].color is None:
            return rows
        palette = np.reshape(image.getpalette(), (-1, 3)).tolist()
    labels = {key[0] for found in values.values() for key in found}
    colors = {tuple(palette[at]): at for at in labels if at < len(palette)}
    if labels - {VOID} - {colors.get(row.color) for row in rows if row.color}:
        return rows  # the palette is another one
    return [Row(row.name, row.color, colors[row.color]) for row in rows if row.color in colors]


Decision = tuple[list[str], Scheme, list[Color] | None, list[tuple[str, str]]]


def _by_color(
    rows: list[Row],
    where: str,
    values: dict[Path, Values],
    samples: Sequence[tuple[Sample, Path]],
    problems: list[Problem],
) -> Decision:
    if not rows or rows[0].color is None:
        first = next(path for path, found in values.items() if len(next(iter(found))) == 3)
        raise DataError(
            f'the label maps hold colors, such as {first}, but no file says what they mean: give '
            'one with a line "name red green blue" per class by --classes FILE'
        )
    used = Counter(color for found in values.values() for color in found)
    classes: list[str] = []
    colors: dict[Color, int] = {}
    palette: list[Color] = []
    ignored, absent = [], []
    listed = {row.color for row in rows}
    for row in rows:
        assert row.color is not None
        if row.name.lower() in _VOID_NAMES:
            colors[row.color] = VOID
            ignored.append(row.name)
        elif not used[row.color]:
            absent.append(row.name)
        else:
            colors[row.color] = len(classes)
            classes.append(row.name)
            palette.append(row.color)
    for path, found in values.items():
        unknown = {color: number for color, number in found.items() if color not in listed}
        if unknown:
            color = max(unknown, key=lambda key: unknown[key])
            more = f' and {len(unknown) - 1} more colors' if len(unknown) > 1 else ''
            what = f'{path} has the color {color} in {unknown[color]} pixels{more}, not in {where}'
            problems.append(Problem('broken', what))
    choices = [('classes', f'from {where}'), ('label maps', 'colors are converted to labels')]
    if ignored:
        choices.append(('ignored', f'{", ".join(ignored)}, by its name'))
    if absent:
        choices.append(('left out', f'{", ".join(absent)}: no pixel has its color'))
    return classes, Scheme(colors=colors), palette, choices


def _by_label(
    rows: list[Row],
    where: str,
    values: dict[Path, Values],
    options: Options,
    problems: list[Problem],
) -> Decision:
    totals: Counter = Counter()
    for found in values.values():
        totals.update({key[0]: number for key, number in found.items()})
    labels = sorted(totals)
    names, void, choices = _names(rows, where, labels, totals, options)
    classes = [name for _, name in sorted(names.items())]
    table = np.full(256, _UNKNOWN, np.uint8)
    table[list(void)] = VOID
    for index, label in enumerate(sorted(names)):
        table[label] = index
    for path, found in values.items():
        unknown = [key[0] for key in found if table[key[0]] == _UNKNOWN]
        if unknown:
            what = (
                f'{path} holds the label {unknown[0]}, but the {len(classes)} classes have the '
                f'labels {_spans(sorted(names))} and {_spans(sorted(void))} is ignored'
            )
            problems.append(Problem('broken', what))
    plain = all(map(_is_plain, values))
    scheme = _scheme(table, labels, len(classes)) if plain else Scheme(table)
    palette = _palette(rows, names)
    if scheme.reduce_zero_label:
        choices.append(('reduce_zero_label', 'the classes have the labels from 1 on'))
    elif not scheme.linked:
        choices.append(('label maps', 'are converted to 8 bits, and the classes have 0 and up'))
    return classes, scheme, palette, choices


def _names(
    rows: list[Row], where: str, labels: list[int], totals: Counter, options: Options
) -> tuple[dict[int, str], set[int], list[tuple[str, str]]]:
    """Names by label, and the labels to ignore."""
    pixels = sum(totals.values())
    shares = ', '.join(f'{v} ({totals[v] / pixels:.1%})' for v in labels)
    if options.void is not None:
        void, why = set(options.void), 'as --void says'
        known = {VOID, *labels, *(row.label for row in rows)}
        if unknown := sorted(void - known):
            raise DataError(f'--void {unknown[0]}: the label maps hold only the labels {shares}')
    else:
        void, why = {VOID} & set(labels), 'by convention'
    choices = [('ignored', f'{_spans(sorted(void))}, {why}')] if void else []
    if not rows:
        if options.void is None and labels == [0, 255]:
            two = 'the maps hold only 0 and 255: a background and one class'
            return {0: 'background', 255: 'foreground'}, set(), [('classes', two)]
        if options.void is None and not void:
            raise DataError(
                f'the label maps hold the labels {shares}, and no file names the classes: say '
                'which are ignored by --void LABEL or --void none, and the names of the others '
                'by --classes NAME,NAME,... (or a file with a name per line)'
            )
        names = {v: f'class {v}' for v in labels if v not in void}
        return names, void, [*choices, ('classes', 'no names were found; --classes gives them')]
    choices.append(('classes', f'from {where}'))
    if rows[0].label is not None:
        names = {int(row.label): row.name for row in rows if row.label is not None}
    else:
        free = [v for v in range(256) if options.void is None or v not in void]
        first = 0
        if options.void is None:
            kept = [v for v in labels if v not in void]
            named_void = any(row.name.lower() in _VOID_NAMES for row in rows)
            if kept and kept[0] == 1 and kept[-1] == len(rows):
                first = 1
                choices.append(('labels', f'run from 1 to {len(rows)}'))
            elif kept[-1:] == [len(rows)] and not named_void:
                raise DataError(
                    f'{where} names {len(rows)} classes, but the label maps hold {shares}: say '
                    f'--void 0 if 0 is ignored, or --void {len(rows)} if {len(rows)} is'
                )
        names = {free[first + at]: row.name for at, row in enumerate(rows)}
    if options.void is None:
        for label, name in list(names.items()):
            if name.lower() in _VOID_NAMES:
                void.add(label)
                choices.append(('ignored', f'{label}, {name}, by its name'))
    return {label: name for label, name in names.items() if label not in void}, void, choices


def _scheme(table: np.ndarray, labels: list[int], number: int) -> Scheme:
    """The scheme of label maps with these labels; linked where mmseg reads them as they are."""
    void = [label for label in labels if table[label] == VOID]
    same = all(table[label] == label for label in labels if label not in void)
    if same and len(void) <= 1 and all(label >= number for label in void):
        return Scheme(table, ignore_index=void[0] if void else VOID, linked=True)
    shifted = all(table[label] == label - 1 for label in labels if label not in void)
    if shifted and set(void) <= {0, VOID}:
        return Scheme(table, reduce_zero_label=True, linked=True)
    return Scheme(table)


def _palette(rows: list[Row], names: dict[int, str]) -> list[Color] | None:
    colors = {row.name: row.color for row in rows if row.color}
    return [colors[name] for _, name in sorted(names.items())] if colors else None


def _spans(values: Sequence[int]) -> str:
    """Numbers with runs shortened, e.g. 0 to 10, 255."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ', '.join(f'{a}' if a == b else f'{a} to {b}' for a, b in runs) or 'nothing'


def convert(path: Path, scheme: Scheme) -> np.ndarray:
    """Read a label map as classes: ``[H, W]`` uint8, :data:`VOID` where it is ignored."""
    labels = decode(path)
    if scheme.table is not None:
        return scheme.table[labels]
    if labels.ndim == 2:
        labels = np.repeat(labels[..., None], 3, axis=2)
    result = np.full(labels.shape[:2], VOID, np.uint8)
    for color, index in scheme.colors.items():
        result[(labels == color).all(-1)] = index
    return result
