"""Label maps for segmentation."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .problems import DataError


def check_label_map_file(path: str | Path) -> None:
    """Check that a file holds labels which mmseg can read as 8 bits, rather than colors.

    Raises:
        DataError: the image is not grayscale or holds values above 255.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ('1', 'L', 'P'):
                return
            values = np.asarray(image)
            if values.ndim == 2 and values.min() >= 0 and values.max() <= 255:
                return
    except UnidentifiedImageError:  # the loader either knows the format or reports it
        return
    raise DataError(
        f'{path} must be a grayscale or palette image with labels up to 255, but has the mode '
        f'{image.mode} and values from {values.min()} to {values.max()}'
    )


def check_labels(
    labels: np.ndarray,
    num_classes: int,
    ignored: Collection[int],
    first: int = 0,
    who: str = 'the model',
) -> None:
    """Check that a label map holds only classes and ignored labels.

    Args:
        labels: ``[H, W]`` as the dataset returns it, where the first class is 0.
        num_classes: number of classes of the dataset.
        ignored: labels that are not trained or evaluated on.
        first: label of the first class in the file, 1 with ``reduce_zero_label``.
        who: what ignores them, for the message.

    Raises:
        DataError: another label was found. The message names it and those that are allowed.
    """
    beyond = labels[(labels >= num_classes) & ~np.isin(labels, list(ignored))]
    if beyond.size:
        raise DataError(
            f'the label map holds {beyond.max() + first}, but the {num_classes} classes have the '
            f'labels {first} to {num_classes - 1 + first}, and {who} ignores '
            f'{", ".join(map(str, sorted(ignored))) or "no label"}: correct the file, or set '
            'ignore_index of the heads and of the metric'
        )
