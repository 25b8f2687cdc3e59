"""Predictions on disk, written as they come."""

import json
import os
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import cv2
import numpy as np

from ..data import read_coco
from ..utils.files import PART, check_writable
from .prediction import Prediction
from .predictor import Predictor

VIS, LABELS, ARRAYS = 'vis', 'labels', 'arrays'
FOLDERS = (VIS, LABELS, ARRAYS)
FILES = ('images.json', 'predictions.bbox.json', 'predictions.segm.json', 'predictions.json')


class Writer:
    """Write predictions to a folder; nothing is kept in memory.

    - ``vis/``: images with the predictions drawn in; the frames of a video become a video
    - detectors: ``predictions.bbox.json`` and ``predictions.segm.json``, results in COCO's format,
      and ``images.json``, which tells the ids of images and categories
    - segmentors: ``labels/``, label maps as PNG, and ``predictions.json``, the share of each class
    - classifiers: ``predictions.json``, the best five classes
    - ``arrays/``, if asked for: what :attr:`.Prediction.arrays` holds, as ``.npz``

    A JSON file has the suffix ``.part`` until it is complete, which :meth:`close` sees to.

    Args:
        out_dir: the folder.
        predictor: what predicts.
        score_thr: lowest score of an object that is drawn.
        vis: whether to draw.
        arrays: whether to write arrays.
        annotations: COCO annotation file from which ids of images and categories are taken. By
            default they are counted from 1.
        force: whether to overwrite what an earlier run wrote.

    Raises:
        FileExistsError: the folder holds predictions already.
        OSError: it cannot be written.
        DataError: the annotations are not in COCO's format.
        ValueError: they lack a class, or (while writing) an image.
    """

    def __init__(
        self,
        out_dir: str | os.PathLike,
        predictor: Predictor,
        score_thr: float = 0.3,
        vis: bool = True,
        arrays: bool = False,
        annotations: str | os.PathLike | None = None,
        force: bool = False,
    ):
        self.folder, self.predictor = Path(out_dir), predictor
        check_folder(self.folder, force)
        self.score_thr, self.vis, self.arrays = score_thr, vis, arrays
        self.ids: dict[str, int] | None = None
        self.category_ids = list(range(1, len(predictor.classes) + 1))
        if annotations is not None:
            self._read_ids(Path(annotations))
        self.count = 0
        self._used: set[str] = set()
        self._lists: dict[str, _List] = {}
        self._video: tuple[str, Any] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if predictor.task == 'detection':
            categories = [
                dict(id=id, name=name)
                for id, name in zip(self.category_ids, predictor.classes, strict=True)
            ]
            self._list(FILES[0], f'{{"categories": {json.dumps(categories)},\n"images": ', '}')
            self._list(FILES[1])
        else:
            self._list(FILES[3])

    def __enter__(self) -> 'Writer':
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Complete the files, or delete them if nothing was predicted."""
        with ExitStack() as stack:
            for file in self._lists.values():
                stack.callback(file.close if self.count else file.delete)
            self._close_video()

    def write(self, prediction: Prediction) -> None:
        """Write one prediction."""
        stem = prediction.name if prediction.fps else self._stem(prediction.name)
        image_id = self._image_id(prediction.name)
        self.count += 1
        if self.predictor.task == 'detection':
            height, width = prediction.image.shape[:2]
            self._lists[FILES[0]].append(
                dict(id=image_id, file_name=prediction.name, height=height, width=width)
            )
            boxes, masks = prediction.coco(image_id, self.category_ids)
            for box in boxes:
                self._lists[FILES[1]].append(box)
            if 'masks' in prediction.sample.pred_instances:
                segm = self._list(FILES[2])
                for mask in masks:
                    segm.append(mask)
        elif self.predictor.task == 'segmentation':
            self._write_labels(prediction, stem)
        else:
            scores = prediction.arrays['scores']
            best = np.argsort(-scores, kind='stable')[:5]
            self._lists[FILES[3]].append(
                dict(
                    image=prediction.name,
                    classes=[prediction.classes[i] for i in best],
                    scores=[float(scores[i]) for i in best],
                )
            )
        if self.arrays:
            file = self._path(ARRAYS, f'{stem}.npz')
            np.savez_compressed(file, **prediction.arrays)  # type: ignore[arg-type]
        if self.vis:
            self._draw(prediction, stem)

    def _write_labels(self, prediction: Prediction, stem: str) -> None:
        labels = prediction.arrays['label_map']
        found, counts = np.unique(labels, return_counts=True)
        shares = {
            prediction.classes[i]: round(n / labels.size, 6)
            for i, n in zip(found, counts, strict=True)
        }
        self._lists[FILES[3]].append(dict(image=prediction.name, shares=shares))
        labels = labels + self.predictor.first_label  # as in the data set's own label maps
        kind = np.uint8 if labels.max() < 256 else np.uint16
        _imwrite(labels.astype(kind), self._path(LABELS, f'{stem}.png'))

    def _draw(self, prediction: Prediction, stem: str) -> None:
        drawn = prediction.draw(self.score_thr)
        if not prediction.fps:
            self._close_video()
            _imwrite(drawn, self._path(VIS, f'{stem}.jpg'))
            return
        name = str(PurePosixPath(stem).parent)
        if self._video is None or self._video[0] != name:
            self._close_video()
            file = self._path(VIS, name if name.endswith('.mp4') else f'{name}.mp4')
            code = cv2.VideoWriter.fourcc(*'mp4v')
            size = drawn.shape[1], drawn.shape[0]
            self._video = name, cv2.VideoWriter(str(file), code, prediction.fps, size)
            if not self._video[1].isOpened():
                raise _too_large(drawn, file, f' and {prediction.fps:g} frames per second')
        self._video[1].write(drawn)

    def _close_video(self) -> None:
        if self._video is not None:
            self._video[1].release()
            self._video = None

    def _stem(self, name: str) -> str:
        """The name without its suffix, or with it if another image has that name already."""
        path = PurePosixPath(name.lstrip('/'))
        stem = str(path.with_suffix(''))
        stem = stem if stem not in self._used else str(path)
        number = 2
        while stem in self._used:
            stem, number = f'{path}.{number}', number + 1
        self._used.add(stem)
        return stem

    def _image_id(self, name: str) -> int:
        if self.ids is None:
            return self.count + 1
        try:
            return self.ids[name]
        except KeyError:
            raise ValueError(f'the annotations list no image {name}') from None

    def _read_ids(self, file: Path) -> None:
        if not file.is_file():
            raise FileNotFoundError(f'{file} does not exist')
        content = read_coco(file)
        self.ids = {image['file_name']: image['id'] for image in content['images']}
        categories = {c['name']: c['id'] for c in content['categories']}
        missing = [name for name in self.predictor.classes if name not in categories]
        if missing:
            raise ValueError(f'{file} has no category {", ".join(map(repr, missing))}')
        self.category_ids = [categories[name] for name in self.predictor.classes]

    def _list(self, name: str, head: str = '', tail: str = '') -> '_List':
        if name not in self._lists:
            self._lists[name] = _List(self.folder / name, head, tail)
        return self._lists[name]

    def _path(self, folder: str, name: str) -> Path:
        path = self.folder / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _List:
    """A JSON file with a list that grows by one line per item."""

    def __init__(self, path: Path, head: str, tail: str):
        self.path, self.tail = path, tail
        self.part = path.with_name(path.name + PART)
        self.file: TextIO = open(self.part, 'w')  # noqa: SIM115  closed by close()
        self.file.write(f'{head}[')
        self.first = True

    def append(self, item: dict) -> None:
        self.file.write(('\n' if self.first else ',\n') + json.dumps(item))
        self.first = False

    def close(self) -> None:
        self.file.write(f'\n]{self.tail}\n')
        self.file.close()
        os.replace(self.part, self.path)

    def delete(self) -> None:
        self.file.close()
        self.part.unlink()


def check_folder(folder: Path, force: bool) -> None:
    """Check that ``folder`` can be written, and no earlier predictions would be overwritten.

    Raises:
        FileExistsError: they would, and ``force`` is False.
        OSError: it is a file, or cannot be made or written.
    """
    check_writable(folder)
    names = [name for name in (*FILES, *FOLDERS) if (folder / name).exists()]
    if names and not force:
        raise FileExistsError(
            f'{folder} holds {", ".join(names)} already: choose another folder, or pass --force'
        )


def _imwrite(pixels: np.ndarray, file: Path) -> None:
    done, content = cv2.imencode(file.suffix, pixels)
    if not done:
        raise _too_large(pixels, file)
    file.write_bytes(content.tobytes())


def _too_large(pixels: np.ndarray, file: Path, more: str = '') -> OSError:
    size = f'{pixels.shape[1]}x{pixels.shape[0]} pixels'
    return OSError(f'{file} cannot be written, of {size}{more}; --no-vis draws nothing')
