"""Broken samples are named and refused where a data set delivers them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image, UnidentifiedImageError

JPEG_START, JPEG_SCAN, JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'


class DataError(ValueError):
    """A sample cannot or should not be used; the message names its files and what is wrong."""


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Let every data set name the files of a sample that is broken, instead of using it.

    It replaces the pipelines of the data sets by :class:`CheckedPipeline` before their first
    sample is loaded. OpenMMLab's mmengine (0.10.7) starts the worker processes of an iteration
    based training earlier than any hook; there they load without these checks.
    """

    def before_train(self, runner: Runner) -> None:
        """Check what is trained on."""
        check_samples(runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """Check what is validated on."""
        check_samples(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Check what is tested on."""
        check_samples(runner.test_dataloader.dataset)


def check_samples(dataset: Any) -> None:
    """Give a data set, or those inside a wrapper such as ``RepeatDataset``, checked pipelines."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for wrapped in inner:
        if wrapped is not None:
            check_samples(wrapped)
    pipeline = getattr(dataset, 'pipeline', None)
    if type(pipeline) is Compose:
        # Only mmseg's data sets number the classes in the label maps as their metainfo does.
        is_segmentation = hasattr(dataset, 'reduce_zero_label')
        classes = dataset.metainfo.get('classes') if is_segmentation else None
        dataset.pipeline = CheckedPipeline(pipeline, len(classes) if classes else None)


class CheckedPipeline(Compose):
    """A pipeline that looks at what each of its transforms has loaded.

    Args:
        pipeline: the transforms.
        num_classes: labels that a label map may hold beside 255, counted from 0; None for any.

    Raises:
        DataError: (when called) a transform failed; a JPEG file has no end; a picture has another
            size than its annotations or its label map; a label map is no grey picture of 8 bits or
            holds a label beyond the classes.
    """

    def __init__(self, pipeline: Compose, num_classes: int | None = None):
        super().__init__(pipeline.transforms)
        self.num_classes = num_classes

    def __call__(self, data: dict) -> Any:
        """Run the transforms on the description of a sample."""
        sample: dict[str, Any] = {
            key: data.get(key) for key in ('img_id', 'img_path', 'seg_map_path')
        }
        size = data.get('height'), data.get('width')
        seen: set[str] = set()
        try:
            for path in filter(_is_local, (sample['img_path'], sample['seg_map_path'])):
                check_file(path)
            if self.num_classes is not None and _is_local(sample['seg_map_path']):
                check_label_map_file(sample['seg_map_path'])
            for transform in self.transforms:
                data = transform(data)
                if not isinstance(data, Mapping):  # None: the data set draws another sample
                    return data
                if 'img' in data and 'img' not in seen:
                    _check_size(data['img'].shape[:2], size)
                if 'gt_seg_map' in data and 'gt_seg_map' not in seen:
                    self._check_label_map(data)
                seen.update(data)
        except Exception as error:
            names = ', '.join(
                f'{key} {value}' for key, value in sample.items() if value is not None
            )
            reason = '' if isinstance(error, DataError) else f'{type(error).__name__}: '
            raise DataError(f'this sample cannot be used: {names}: {reason}{error}') from error
        return data

    def _check_label_map(self, data: Mapping) -> None:
        labels = data['gt_seg_map']
        if self.num_classes is None:
            return
        if labels.ndim != 2 or labels.shape != tuple(data['ori_shape']):
            raise DataError(
                f'the label map has shape {labels.shape}, but the picture {data["ori_shape"]}'
            )
        beyond = labels[(labels >= self.num_classes) & (labels != 255)]
        if beyond.size:
            first = int(bool(data.get('reduce_zero_label')))
            raise DataError(
                f'the label map holds {beyond.max() + first}, but the {self.num_classes} classes '
                f'have the labels {first} to {self.num_classes - 1 + first}'
            )


def check_file(path: str | Path) -> None:
    """Find damage to the file of a picture that decoders pass over.

    Raises:
        DataError: the file is empty, or a JPEG file that ends early.
        OSError: the file cannot be read.
    """
    content = Path(path).read_bytes()
    if not content:
        raise DataError(f'{path} is empty')
    if is_truncated(content):
        raise DataError(f'{path} is truncated: its JPEG data has no end')


def check_label_map_file(path: str | Path) -> None:
    """Find labels that mmseg would change by reading them as 8 bits, or that are colours.

    Raises:
        DataError: the picture is not grey or holds values above 255.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ('1', 'L', 'P'):
                return
            values = np.asarray(image)
            if values.ndim == 2 and values.min() >= 0 and values.max() <= 255:
                return
    except UnidentifiedImageError:  # no picture: the loader says so, or knows its format
        return
    raise DataError(
        f'{path} must be a grey or palette picture with labels up to 255, but has the mode '
        f'{image.mode} and values from {values.min()} to {values.max()}'
    )


def is_truncated(content: bytes) -> bool:
    """Whether a JPEG file lacks its end marker; False for any other file.

    Some decoders fill up what is missing, and all read what an interrupted download left as zeros.
    """
    if not content.startswith(JPEG_START):
        return False
    # A thumbnail has an end marker as well: skip all segments before the first scan. No scan
    # contains the end marker.
    at = len(JPEG_START)
    while content[at : at + 1] == b'\xff' and content[at : at + 2] != JPEG_SCAN:
        at += 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
    return JPEG_END not in content[at:]


def _check_size(found: tuple[int, int], expected: tuple[int | None, int | None]) -> None:
    """Compare heights and widths, in pixels, of a picture and of its description."""
    if None in expected or tuple(found) == tuple(expected):
        return
    turned = ' (is it turned by an EXIF tag?)' if found == expected[::-1] else ''
    raise DataError(
        f'the picture has {found[0]} x {found[1]} pixels, but its annotations are for '
        f'{expected[0]} x {expected[1]}{turned}'
    )


def _is_local(path: Any) -> bool:
    return isinstance(path, str) and '://' not in path
