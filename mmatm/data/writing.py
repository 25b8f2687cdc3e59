"""Data sets of any format, written as mmdet, mmseg and mmpretrain read them.

Images stay where they are. Label maps become symlinks, or new files if their labels change.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from .formats import Found, Sample
from .formats.label_maps import convert
from .problems import DataError
from .splitting import Splits

MARKER = 'mmatm_new.json'  # tells that the folder may be replaced


def image_root(splits: Splits) -> Path:
    """Return the folder that contains all images."""
    folders = {sample.image.parent for samples in splits.values() for sample in samples}
    return Path(os.path.commonpath(folders))


def write_dataset(found: Found, splits: Splits, folder: Path) -> None:
    """Write the annotations of a data set.

    Detection gets ``train.json`` and so on in COCO's format, segmentation and classification lists
    ``train.txt``, and segmentation label maps in ``labels``, named for the images. Paths are
    relative to :func:`image_root`. There is no ``test`` if it is the same as ``val``.

    Args:
        found: the data set.
        splits: its samples for ``train``, ``val`` and ``test``.
        folder: where to write; it must not exist.
    """
    folder.mkdir(parents=True)
    root = image_root(splits)
    for split, samples in splits.items():
        if split == 'test' and samples is splits['val']:
            continue
        names = {id(sample): sample.image.relative_to(root).as_posix() for sample in samples}
        if found.task in ('detection', 'instance'):
            content = _coco(found.classes, samples, names)
            (folder / f'{split}.json').write_text(json.dumps(content))
            continue
        labels = {id(s): f' {s.label}' if s.label is not None else '' for s in samples}
        lines = [f'{names[id(sample)]}{labels[id(sample)]}\n' for sample in samples]
        (folder / f'{split}.txt').write_text(''.join(lines))
        if found.task == 'segmentation':
            for sample in tqdm(samples, desc=f'{split} label maps', disable=None):
                target = folder / 'labels' / f'{names[id(sample)]}.png'
                _write_label_map(sample, found.scheme, target)
    card = {'written by': 'mmatm new', 'format': found.format, 'images': str(root)}
    (folder / MARKER).write_text(json.dumps(card, indent=2) + '\n')


def _coco(classes: list[str], samples: list[Sample], names: dict[int, str]) -> dict[str, Any]:
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, sample in enumerate(samples, start=1):
        width, height = sample.size
        images.append(
            {'id': image_id, 'file_name': names[id(sample)], 'width': width, 'height': height}
        )
        for thing in sample.objects:
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': thing.label + 1,
                    'bbox': list(thing.box),
                    'area': thing.box[2] * thing.box[3] if thing.area is None else thing.area,
                    'iscrowd': int(thing.crowd),
                    **({} if thing.segmentation is None else {'segmentation': thing.segmentation}),
                }
            )
    categories = [{'id': number, 'name': name} for number, name in enumerate(classes, start=1)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def _write_label_map(sample: Sample, scheme: Any, target: Path) -> None:
    assert sample.label_map is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    if scheme.linked:
        try:
            target.symlink_to(sample.label_map)
        except OSError:  # Windows asks for a privilege
            shutil.copyfile(sample.label_map, target)
    else:
        Image.fromarray(convert(sample.label_map, scheme)).save(target)


def put_in_place(built: Path, target: Path) -> None:
    """Rename a folder that was written to its final name, in place of one of an earlier call.

    Raises:
        DataError: the target holds something that :func:`write_dataset` did not write.
    """
    if is_foreign(target):
        raise DataError(f'{target} holds files that mmatm new did not write; choose --data-out')
    old = target.with_name(target.name + '.old')
    if target.exists():
        target.rename(old)
    built.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds something that :func:`write_dataset` did not write."""
    if not folder.exists():
        return False
    return not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARKER).is_file())
