"""Pascal VOC: one XML file per image, and lists of the splits."""

from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from ..images import check_size
from ..problems import DataError, Problem
from .found import Found, Object, Options, Sample, Tree, assign_splits, image_size

NAME = 'Pascal VOC'


def matches(tree: Tree) -> bool:
    """Whether the first XML file is an annotation."""
    return any(b'<annotation' in path.read_bytes()[:1000] for path in tree.having('.xml')[:1])


def read(tree: Tree, options: Options) -> Found:
    """Read all annotations; see :class:`.Found`."""
    problems: list[Problem] = []
    raw = []
    for path in tqdm(tree.having('.xml'), desc='annotations', disable=None):
        try:
            raw.append((path, *_parse(path, tree, problems)))
        except DataError as error:
            problems.append(Problem('broken', str(error)))
    # VOC counts pixels from 1, but some tools write these files from 0.
    start = 0 if any(min(box[:2]) < 1 for *_, things in raw for _, box, _ in things) else 1
    choices = [('boxes', f'coordinates count from {start}')]
    names = sorted({name for *_, things in raw for name, _, _ in things})
    classes = list(options.classes or names)
    if unknown := [name for name in names if name not in classes]:
        choices.append(('left out', f'{", ".join(unknown)}, not in --classes'))
    samples = []
    difficult = 0
    used = {image for _, image, *_ in raw}
    folders = {image.parent for image in used}
    if alone := [p for p in tree.images if p.parent in folders and p not in used]:
        what = f'{len(alone)} images without XML are left out, such as {alone[0]}'
        problems.append(Problem('note', what))
    for path, image, size, things in raw:
        sample = Sample(image, size)
        for number, (name, (x1, y1, x2, y2), is_hard) in enumerate(things, start=1):
            if name not in classes:
                continue
            width, height = size
            x1, y1 = max(x1 - start, 0), max(y1 - start, 0)
            x2, y2 = min(x2 - start, width), min(y2 - start, height)
            if x2 - x1 < 1 or y2 - y1 < 1:
                what = f'{path}: object {number}, {name}, is left out: it has no area in the image'
                problems.append(Problem('note', what))
                continue
            difficult += is_hard
            box = (x1, y1, x2 - x1, y2 - y1)
            sample.objects.append(Object(classes.index(name), box, crowd=is_hard))
        samples.append(sample)
    if difficult:
        choices.append(('difficult', f'{difficult} objects: neither objects nor background'))
    splits = assign_splits(tree, samples, problems, prefer='Main')
    return Found(NAME, 'detection', classes, splits, problems, choices)


def _parse(
    path: Path, tree: Tree, problems: list[Problem]
) -> tuple[Path, tuple[int, int], list[tuple[str, list[float], bool]]]:
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f'{path} is not XML ({error})') from None
    image = _image_of(path, root.findtext('filename') or '', tree)
    size = image_size(image)
    try:
        stated = tuple(int(float(root.findtext(f'size/{key}', ''))) for key in ('height', 'width'))
    except ValueError:
        stated = (0, 0)
    if 0 in stated:
        what = f'{path} states no size; that of {image.name}, {size[0]} x {size[1]}, is used'
        problems.append(Problem('note', what))
    else:
        try:
            check_size(size[::-1], (stated[0], stated[1]))
        except DataError as error:
            raise DataError(f'{path}: {error}') from None
    things = []
    for number, thing in enumerate(root.iter('object'), start=1):
        name = (thing.findtext('name') or '').strip()
        try:
            box = [float(thing.findtext(f'bndbox/{key}', '')) for key in _CORNERS]
        except ValueError:
            raise DataError(f'{path}: object {number}, {name!r}, has no box of numbers') from None
        if not name or not all(abs(value) < 1e6 for value in box):
            raise DataError(f'{path}: object {number} has the name {name!r} and the box {box}')
        if min(box[0], box[1]) > max(size) or box[0] > size[0] + 1 or box[1] > size[1] + 1:
            raise DataError(
                f'{path}: object {number}, {name}, has the box {box}, outside the image of '
                f'{size[0]} x {size[1]} pixels'
            )
        things.append((name, box, (thing.findtext('difficult') or '0').strip() == '1'))
    return image, size, things


_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


def _image_of(path: Path, named: str, tree: Tree) -> Path:
    """The image with the stem of the annotation, or else the one that it names."""
    found = tree.by_stem.get(path.stem, [])
    if len(found) != 1:
        exact = [image for image in found if image.name == Path(named).name]
        found = exact or found or tree.by_name.get(Path(named).name, [])
    # SegmentationClass and the like repeat the stems of the images.
    if len(found) > 1 and len(photos := [p for p in found if 'egmentation' not in str(p)]):
        found = photos
    if len(found) > 1:
        beside = [p for p in found if tree.parts(p)[:1] == tree.parts(path)[:1]]
        found = beside if len(beside) == 1 else found
    if len(found) > 1:
        names = ' and '.join(str(image) for image in found[:2])
        raise DataError(f'{path} could be of {names}: rename one, with its annotations')
    if not found:
        raise DataError(f'{path} has no image: neither {path.stem}.* nor {named or "a filename"}')
    return found[0]
