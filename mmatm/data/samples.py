"""Checks of every sample that a dataset loads."""

from collections.abc import Collection, Mapping
from typing import Any

from mmengine.dataset import Compose

from .images import check_file, check_size
from .labels import check_label_map_file, check_labels
from .problems import DataError


def check_samples(dataset: Any, ignored: Collection[int] = (255,), who: str = 'the model') -> None:
    """Make a dataset, or those inside a wrapper such as ``RepeatDataset``, check their samples.

    Args:
        dataset: a dataset of mmdet, mmseg or mmpretrain.
        ignored: labels that are not trained or evaluated on.
        who: what ignores them, for the message.
    """
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for wrapped in inner:
        if wrapped is not None:
            check_samples(wrapped, ignored, who)
    pipeline = getattr(dataset, 'pipeline', None)
    if type(pipeline) is Compose:
        # Only the datasets of mmseg number the classes in label maps as in their metainfo.
        is_segmentation = hasattr(dataset, 'reduce_zero_label')
        classes = dataset.metainfo.get('classes') if is_segmentation else None
        num_classes = len(classes) if classes else None
        dataset.pipeline = CheckedPipeline(pipeline, num_classes, ignored, who)


class CheckedPipeline(Compose):
    """A pipeline that checks what its transforms load.

    Args:
        pipeline: the transforms.
        num_classes: number of classes in a label map; None for no check.
        ignored, who: see :func:`.check_labels`.

    Raises:
        DataError: (when called) a transform failed; a JPEG file is truncated; the size of an image
            differs from that of its annotations or label map; a label map is not an 8-bit grayscale
            image, or holds a label that is neither a class nor ignored.
    """

    def __init__(
        self,
        pipeline: Compose,
        num_classes: int | None = None,
        ignored: Collection[int] = (255,),
        who: str = 'the model',
    ):
        super().__init__(pipeline.transforms)
        self.num_classes = num_classes
        self.ignored = ignored
        self.who = who

    def __call__(self, data: dict) -> Any:
        """Run the transforms on a sample."""
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
                if not isinstance(data, Mapping):  # None: the dataset draws another sample
                    return data
                if 'img' in data and 'img' not in seen:
                    check_size(data['img'].shape[:2], size)
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
                f'the label map has shape {labels.shape}, but the image {data["ori_shape"]}'
            )
        first = int(bool(data.get('reduce_zero_label')))
        check_labels(labels, self.num_classes, self.ignored, first, self.who)


def _is_local(path: Any) -> bool:
    return isinstance(path, str) and '://' not in path
