"""Checks of the data during training."""

from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..data import DataError, check_classes, check_samples
from ..utils.messages import log, shorten


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Check COCO annotations before training, and every sample when it is loaded.

    The pipelines of the datasets are replaced by :class:`.CheckedPipeline` before they load the
    first sample. In iteration-based training, OpenMMLab's mmengine (0.10.7) starts the worker
    processes before any hook runs, so those workers load without these checks.

    Raises:
        DataError: data is broken. The message names the file and the reason.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training data."""
        check_classes(runner.cfg, 'train_dataloader', 'val_dataloader')
        model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
        heads = [module for module in model.modules() if hasattr(module, 'loss_decode')]
        dataset = runner.train_dataloader.dataset
        names = getattr(dataset, 'metainfo', {}).get('classes') or ()
        if hasattr(dataset, 'get_gt_labels'):
            _check_classifier(getattr(model, 'head', None), names)
        for head in heads:
            _check_number(head, names)
        check_samples(dataset, _ignored_by(heads), 'every head')

    def before_val(self, runner: Runner) -> None:
        """Check the validation data."""
        ignored = _ignored_by(runner.val_evaluator.metrics)
        check_samples(runner.val_dataloader.dataset, ignored, 'the metric')

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        ignored = _ignored_by(runner.test_evaluator.metrics)
        check_samples(runner.test_dataloader.dataset, ignored, 'the metric')


def _check_number(head: Any, classes: Sequence[str]) -> None:
    """Check that a segmentation head has all labels; mmdet has a hook for its own heads.

    It may have more, and one sigmoid tells two classes apart.
    """
    labels = [label for label in range(len(classes)) if label != head.ignore_index]
    if labels and labels[-1] >= max(head.num_classes, 2):
        raise DataError(_difference(head, [classes[label] for label in labels]))


def _check_classifier(head: Any, classes: Sequence[str]) -> None:
    """Check that the head of a classifier has all classes; more are only noted."""
    if not classes or not hasattr(head, 'num_classes'):
        return
    if head.num_classes < len(classes):
        raise DataError(_difference(head, classes))
    if head.num_classes > len(classes):
        log(_difference(head, classes))


def _difference(head: Any, classes: Sequence[str]) -> str:
    return (
        f'{type(head).__name__} has num_classes={head.num_classes}, but the training set has '
        f'{len(classes)} classes: {shorten(classes)}'
    )


def _ignored_by(parts: Iterable[Any]) -> set[int]:
    """Labels that all heads or metrics ignore; 255 if none of them sets ``ignore_index``."""
    ignored = [{part.ignore_index} for part in parts if hasattr(part, 'ignore_index')]
    return set.intersection(*ignored) if ignored else {255}
