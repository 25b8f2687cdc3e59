"""COCO: JSON files with images, categories and annotations."""

from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..coco import check_coco_annotations, read_coco
from ..images import check_size
from ..problems import DataError, Problem
from .found import Found, Object, Options, Sample, Tree, by_folder, image_size, split_of

NAME = 'COCO'
_KEYS = (b'"images"', b'"annotations"', b'"categories"')


def matches(tree: Tree) -> bool:
    """Whether there is an annotation file."""
    return bool(_files(tree))


def _files(tree: Tree) -> list[Path]:
    found = []
    for path in tree.having('.json'):
        content = path.read_bytes()
        # A file that breaks off is read as well, and rejected, or its split would be overlooked.
        cut = any(key in content for key in _KEYS) and not content.rstrip().endswith(b'}')
        if cut or all(key in content for key in _KEYS):
            found.append(path)
    return found


def read(tree: Tree, options: Options, file: Path | None = None) -> Found:
    """Read all annotation files below a folder, or only ``file``; see :class:`.Found`."""
    paths = {'all': file} if file else _by_split(tree)
    contents = {split: read_coco(path) for split, path in paths.items()}
    task, why = _task(contents, options)
    names, choices = _classes(contents, options)
    problems: list[Problem] = []
    splits = {}
    for split, content in contents.items():
        masks, evaluated = task == 'instance', split not in ('train', 'trainval')
        found = [*check_coco_annotations(content, paths[split], masks, evaluated, names)]
        problems += found
        if not any(problem.is_fatal for problem in found):
            splits[split] = _samples(tree, split, paths[split], content, names, masks, problems)
    return Found(NAME, task, names, splits, problems, [('task', why), *choices])


def _by_split(tree: Tree) -> dict[str, Path]:
    found: dict[str, list[Path]] = {}
    paths = _files(tree)
    for path in paths:
        split = split_of(path.stem) or by_folder(tree, path) or ('all' if len(paths) == 1 else '')
        found.setdefault(split or path.stem, []).append(path)
    result = {}
    for split, candidates in found.items():
        if len(candidates) > 1:
            instances = [path for path in candidates if path.stem.startswith('instances')]
            candidates = instances if len(instances) == 1 else candidates
        if len(candidates) == 1:
            result[split] = candidates[0]
        else:  # named for --train, --val and --test
            result |= {str(p.relative_to(tree.root).with_suffix('')): p for p in candidates}
    return result


def _task(contents: dict[str, dict], options: Options) -> tuple[str, str]:
    things = [a for c in contents.values() for a in c['annotations'] if not a.get('iscrowd')]
    with_mask = [a for a in things if a.get('segmentation')]
    rectangles = all(map(_is_its_box, with_mask))
    if options.task in ('detection', 'instance'):
        return options.task, 'as --task says'
    if not with_mask:
        return 'detection', 'no annotation has a segmentation'
    if rectangles:
        return 'detection', 'every segmentation is just the rectangle of its box'
    if len(with_mask) == len(things):
        return 'instance', 'every annotation has a segmentation'
    raise DataError(
        f'{len(with_mask)} of {len(things)} annotations have a segmentation: say --task detection '
        'to train on boxes alone, or --task instance to have those without rejected by id'
    )


def _is_its_box(annotation: dict) -> bool:
    polygons, box = annotation['segmentation'], annotation.get('bbox')
    if not isinstance(polygons, list) or len(polygons) != 1 or not box:
        return False
    (polygon,) = polygons
    try:
        corners = set(zip(polygon[::2], polygon[1::2], strict=True))
        x, y, w, h = box
        wanted = [(x + a, y + b) for a in (0, w) for b in (0, h)]
        return len(corners) == 4 and all(
            any(abs(x - a) < 1 and abs(y - b) < 1 for a, b in corners) for x, y in wanted
        )
    except (TypeError, ValueError):
        return False


def _classes(contents: dict[str, dict], options: Options) -> tuple[list[str], list]:
    listed = [list(map(_named, content['categories'])) for content in contents.values()]
    for split, categories in zip(contents, listed, strict=True):
        if sorted(categories) != sorted(listed[0]):
            raise DataError(
                f'the annotation files of {next(iter(contents))} and {split} have different '
                f'categories: {listed[0]} and {categories}'
            )
    if options.classes:
        if unknown := [name for name in options.classes if name not in listed[0]]:
            raise DataError(f'--classes {unknown[0]}: the categories are {sorted(listed[0])}')
        return list(options.classes), []
    used = set()
    for content in contents.values():  # which may number the categories differently
        names = {category['id']: category['name'] for category in content['categories']}
        used |= {names.get(annotation.get('category_id')) for annotation in content['annotations']}
    order = [name for name in listed[0] if name in used]
    empty = [name for name in dict.fromkeys(listed[0]) if name not in used]
    if twice := [name for name, number in Counter(order).items() if number > 1]:
        raise DataError(f'two categories have the name {twice[0]!r}')
    if not order:
        raise DataError('no annotation is of a listed category')
    why = f'{", ".join(map(repr, empty))}: categories without objects'
    return order, [('left out', why)] if empty else []


def _named(category: dict) -> str:
    return category['name']


def _samples(
    tree: Tree,
    split: str,
    file: Path,
    content: dict[str, Any],
    names: list[str],
    masks: bool,
    problems: list[Problem],
) -> list[Sample]:
    categories = {category['id']: category['name'] for category in content['categories']}
    samples = {}
    for image in tqdm(content['images'], desc=f'{split} images', disable=None):
        try:
            path = _find(tree, split, file, image['file_name'])
            size = image_size(path)
            check_size(size[::-1], (image['height'], image['width']))
        except DataError as error:
            what = f'image {image["id"]!r} of {file} ({image["file_name"]}): {error}'
            problems.append(Problem('broken', what))
            continue
        samples[image['id']] = Sample(path, size)
    for annotation in content['annotations']:
        sample, name = samples.get(annotation['image_id']), categories[annotation['category_id']]
        if sample is None or name not in names or annotation.get('ignore'):
            continue
        box = annotation['bbox']
        width, height = sample.size
        inside = [
            min(box[i] + box[i + 2], s) - max(box[i], 0) for i, s in ((0, width), (1, height))
        ]
        segmentation = annotation['segmentation'] if masks else None
        if isinstance(segmentation, list):  # pycocotools fails where mmdet leaves polygons out
            segmentation = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
        if min(*inside, *box[2:]) < 1 or annotation['area'] <= 0 or segmentation == []:
            continue  # noted already
        crowd = bool(annotation.get('iscrowd'))
        thing = Object(names.index(name), tuple(box), segmentation, annotation['area'], crowd)
        sample.objects.append(thing)
    return list(samples.values())


def _find(tree: Tree, split: str, file: Path, name: str) -> Path:
    """The image of this name: beside the file, or the only one in the split's folders."""
    for folder in (file.parent, tree.root):
        if (folder / name).is_file():
            return folder / name
    found = [p for p in tree.by_name.get(Path(name).name, []) if p.as_posix().endswith(name)]
    found = found or tree.by_name.get(Path(name).name, [])
    if len(found) > 1:
        found = [path for path in found if by_folder(tree, path) == split] or found
    if not found:
        raise DataError(f'the image is missing below {tree.root}')
    if len(found) > 1:
        raise DataError(f'it could be {found[0]} or {found[1]}')
    return found[0]
