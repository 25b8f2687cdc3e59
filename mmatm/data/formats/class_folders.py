"""One folder of images per class, with or without a folder per split around them."""

from collections import Counter

from tqdm import tqdm

from ..problems import DataError, Problem
from .found import Found, Options, Sample, Tree, image_size, split_of

NAME = 'folder per class'
_PARTS = {
    'images', 'labels', 'masks', 'annotations', 'jpegimages', 'img', 'imgs', 'gt',
    'segmentationclass', 'segmentationobject',
}  # fmt: skip


def matches(tree: Tree) -> bool:
    """Whether all images are in at least two folders, none of them a part of another format."""
    tops = {tree.parts(path)[:1] for path in tree.images}
    classes = _classes(tree)[1]
    return () not in tops and len(classes) > 1 and not _PARTS & set(map(str.lower, classes))


def _classes(tree: Tree) -> tuple[bool, list[str]]:
    """Whether the outer folders are splits, and the classes."""
    parts = [tree.parts(path) for path in tree.images]
    tops = {names[0] for names in parts if names}
    split = all(split_of(top, whole=True) for top in tops)  # a class may be called train
    level = 1 if split else 0
    return split, sorted({names[level] for names in parts if len(names) > level})


def read(tree: Tree, options: Options) -> Found:
    """Read all images; see :class:`.Found`."""
    has_splits, classes = _classes(tree)
    if len(classes) < 2:
        raise DataError(f'{tree.root} has images of {len(classes)} class, but a classifier needs 2')
    if options.classes:
        if unknown := [name for name in options.classes if name not in classes]:
            raise DataError(f'--classes {unknown[0]}: the folders are {", ".join(classes)}')
        classes = list(options.classes)
    problems: list[Problem] = []
    splits: dict[str, list[Sample]] = {}
    for path in tqdm(tree.images, desc='images', disable=None):
        parts = tree.parts(path)
        if len(parts) <= has_splits:
            problems.append(Problem('broken', f'{path} is in no folder of a class'))
            continue
        split = str(split_of(parts[0], whole=True)) if has_splits else 'all'
        name = parts[1 if has_splits else 0]
        if name not in classes:
            continue
        try:
            sample = Sample(path, image_size(path), label=classes.index(name))
            splits.setdefault(split, []).append(sample)
        except DataError as error:
            problems.append(Problem('broken', str(error)))
    trained = Counter(sample.label for sample in splits.get('train', []))
    if 'train' in splits and (missing := [c for i, c in enumerate(classes) if not trained[i]]):
        problems.append(Problem('missing', f'train has no image of {", ".join(missing)}'))
    return Found(NAME, 'classification', classes, splits, problems)
