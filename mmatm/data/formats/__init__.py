"""Readers of data sets, one module per format."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from ..problems import DataError
from . import class_folders, coco, label_maps, voc, yolo
from .class_table import read_table
from .found import TASKS, Found, Object, Options, Sample, Tree

FORMATS: dict[str, ModuleType] = {
    'coco': coco,
    'voc': voc,
    'yolo': yolo,
    'labels': label_maps,
    'folders': class_folders,
}

__all__ = ['FORMATS', 'TASKS', 'Found', 'Object', 'Options', 'Sample', 'read_dataset']


def read_dataset(data: Path, name: str | None = None, options: Options | None = None) -> Found:
    """Read a data set in any format.

    Args:
        data: its folder, an annotation file of COCO, or ``data.yaml`` of YOLO.
        name: its format, a key of :data:`FORMATS`; found by what is there if None.
        options: what the user says about it.

    Raises:
        DataError: it is in no known format, or it can be read in several ways. The message names
            the flag that decides.
    """
    options, data = options or Options(), data.absolute()
    if data.is_file():
        module = {'.json': coco, '.yaml': yolo, '.yml': yolo}.get(data.suffix.lower())
        if module is None:
            raise DataError(f'{data} must be a folder, a .json file of COCO or a .yaml of YOLO')
        if name and FORMATS[name] is not module:
            raise DataError(f'--format {name} needs a folder, not {data}')
        root = data.parent
        # Images are often beside the folder of the annotations.
        if not Tree(root).images or root.name.lower() == 'annotations':
            root = root.parent
        return module.read(Tree(root), _named(options), data)
    tree = Tree(data)
    if not tree.images:
        raise DataError(f'{data} holds no images')
    if options.labels:
        name = name or 'labels'
    if name is None:
        found = [
            key for key, module in FORMATS.items() if key != 'folders' and module.matches(tree)
        ]
        found = found or ['folders'] * class_folders.matches(tree)
        if not found:
            raise DataError(
                f'{data} holds {len(tree.images)} images, but neither COCO JSON, VOC XML, YOLO '
                'labels with names of classes, label maps, nor a folder per class'
            )
        if len(found) > 1:
            raise DataError(
                f'{data} can be read as {" and as ".join(found)}: say --format {found[0]}'
            )
        (name,) = found
    if name in ('coco', 'voc') and not FORMATS[name].matches(tree):
        raise DataError(f'{data} has no annotation file of {FORMATS[name].NAME}')
    return FORMATS[name].read(tree, options if name == 'labels' else _named(options))


def _named(options: Options) -> Options:
    """Options with the names of the table, for formats that have no other use for it."""
    if options.table is None:
        return options
    return replace(options, classes=[row.name for row in read_table(options.table)])
