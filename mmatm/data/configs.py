"""Checks of the data that a config names: missing files and unusable annotations."""

import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import list_from_file

from ..utils.messages import shorten
from .coco import check_coco_annotations, read_coco
from .problems import DataError

_FOLDERS = ('CustomDataset', 'ImageNet')  # data sets of mmpretrain with one folder per class


def check_paths(cfg: Config, *loaders: str) -> None:
    """Check that all files and folders of the data loaders exist.

    Args:
        cfg: the config.
        loaders: keys of the data loaders to check, e.g. ``train_dataloader``.

    Raises:
        DataError: a file or folder is missing. The message names the first one.
    """
    for loader in loaders:
        settings = cfg.get(loader) or {}
        for dataset in datasets(settings.get('dataset')):
            for path in _paths(dataset):
                if not path.exists():
                    raise DataError(
                        f'the {dataset.get("type")} of {loader} is missing: {path} was looked for '
                        f'in {Path.cwd()}; docs/data.md tells how to get and place it'
                    )
        for metric in metrics(cfg, loader.replace('dataloader', 'evaluator')):
            ann_file = metric.get('ann_file')
            if ann_file and '://' not in ann_file and not Path(ann_file).exists():
                raise DataError(
                    f'the {metric.type} of {loader} lacks its annotations: {ann_file} was looked '
                    f'for in {Path.cwd()}; docs/data.md tells how to get and place them'
                )


def check_classes(cfg: Config, *loaders: str) -> None:
    """Check the classes of a config against COCO annotations, or against folders of images.

    If the annotations lack a class, mmdet silently drops it, and every image that shows nothing
    else. That is an error here. Categories that are not classes of the config, and annotations that
    mmdet does not use, are allowed but printed. mmpretrain numbers folders alphabetically, whatever
    the order of the classes. In distributed training only rank 0 checks.

    Raises:
        DataError: a class has no category, annotations cannot be used, or the classes are not those
            of the folders.
    """
    if os.environ.get('RANK', '0') != '0':
        return
    for loader in loaders:
        for dataset in datasets((cfg.get(loader) or {}).get('dataset')):
            ann_file = dataset.get('ann_file')
            if dataset.get('type') in _FOLDERS and not ann_file:
                _check_folders(loader, dataset)
            elif dataset.get('type') == 'CocoDataset' and ann_file:
                path = os.path.join(dataset.get('data_root') or '', ann_file)
                if '://' not in path:
                    _check_file(loader, dataset, Path(path))


def _check_file(loader: str, dataset: dict, path: Path) -> None:
    from mmdet.datasets import CocoDataset

    classes = {**CocoDataset.METAINFO, **(dataset.get('metainfo') or {})}['classes']
    if isinstance(classes, str):  # the name of a file of names
        try:
            classes = list_from_file(classes)
        except FileNotFoundError:
            raise DataError(
                f'{loader}: classes must be a tuple of names, or a file of names, but is '
                f'{classes!r}; a tuple of one name is ({classes!r},)'
            ) from None
    masks = any(transform.get('with_mask') for transform in dataset.get('pipeline') or [])
    evaluated = loader != 'train_dataloader'
    try:
        found = _read(path, path.stat().st_mtime_ns, masks, evaluated, tuple(classes))
    except DataError as error:
        raise DataError(f'{loader}: {error}') from None
    categories, fatal = found
    missing = [name for name in classes if name not in categories]
    if missing:
        raise DataError(
            f'{loader}: {path} has no category {", ".join(map(repr, missing))}; it has '
            f'{", ".join(map(repr, categories))}. Set metainfo=dict(classes=(...)) of the dataset '
            'to some of these names, and num_classes of the heads to their number'
        )
    if fatal:
        raise DataError(f'{loader}: {path} has annotations that cannot be used, see above')


def _check_folders(loader: str, dataset: dict) -> None:
    classes = (dataset.get('metainfo') or {}).get('classes') or dataset.get('classes')
    data_root = Path(dataset.get('data_root') or '')
    root = next(_paths(dataset), data_root)
    if not classes or isinstance(classes, str):  # a string is the name of a file of names
        return
    # ImageNet's own layout may list the labels of a split.
    listed = (data_root / 'meta' / f'{dataset.get("split")}.txt').exists()
    if listed or not dataset.get('with_label', True) or not root.is_dir():
        return
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    if len(folders) != len(classes):
        raise DataError(
            f'{loader}: the classes are {len(classes)}, {shorten(classes)}, but {root} has '
            f'{len(folders)} folders, {shorten(folders)}'
        )
    if {*classes} != {*folders}:  # names for folders such as n01440764
        return
    for label, (folder, name) in enumerate(zip(folders, classes, strict=True)):
        if folder != name:
            raise DataError(
                f'{loader}: mmpretrain numbers the folders of {root} alphabetically, so class '
                f'{label} is {folder}, but the config lists {name} there'
            )


# Cached: the tools check before they build anything, and CheckDataHook for other programs.
@lru_cache
def _read(
    path: Path, modified: int, masks: bool, evaluated: bool, classes: tuple[str, ...]
) -> tuple[list[str], bool]:
    """Return the categories of a file and whether it is unusable; print its problems."""
    content = read_coco(path)
    categories = [category['name'] for category in content['categories']]
    if not set(classes) <= set(categories):  # reported by the caller, with all that follows
        return categories, False
    problems = list(check_coco_annotations(content, path, masks, evaluated, classes))
    if problems:
        print(*problems, sep='\n', file=sys.stderr)
    extra = [name for name in categories if name not in classes]
    if extra:
        print(f'{path}: the categories {", ".join(map(repr, extra))} are left out')
    return categories, any(problem.is_fatal for problem in problems)


def metrics(cfg: Config, evaluator: str) -> list[Any]:
    """The metrics of ``val_evaluator`` or ``test_evaluator``, as a list."""
    settings = cfg.get(evaluator) or []
    if isinstance(settings, dict):  # "metrics" is an argument of evaluators
        settings = settings.get('metrics', [settings])
    return list(settings) if isinstance(settings, (list, tuple)) else [settings]


def first_test_set(cfg: Config) -> dict[str, Any]:
    """The settings of the test set, or of the first inside wrappers; empty if there is none."""
    return next(datasets((cfg.get('test_dataloader') or {}).get('dataset')), {})


def datasets(settings: Any) -> Iterator[Any]:
    """The datasets inside wrappers such as ConcatDataset or RepeatDataset."""
    for item in settings if isinstance(settings, (list, tuple)) else [settings]:
        if not isinstance(item, dict):
            continue
        inner = item.get('dataset') or item.get('datasets')
        if inner:
            yield from datasets(inner)
        else:
            yield item


def _paths(dataset: dict) -> Iterator[Path]:
    """The annotation file and image folders of a dataset that are local."""
    root = dataset.get('data_root') or ''
    # Other data sets of mmpretrain with a split, such as CIFAR10, have no folder of that name.
    split = dataset.get('split') if str(dataset.get('type')).endswith('ImageNet') else None
    prefix = dataset.get('data_prefix') or split or {}
    names = [dataset.get('ann_file'), *(prefix.values() if isinstance(prefix, dict) else [prefix])]
    for name in names:
        if name and '://' not in os.path.join(root, name):
            yield Path(root, name)
