"""Checks of datasets, before and during training."""

from .coco import check_coco_annotations, read_coco
from .configs import check_classes, check_paths, datasets, first_test_set, metrics
from .images import check_file
from .labels import check_label_map_file, check_labels
from .panoptic import check_panoptic_annotations, panoptic_map_problem, read_panoptic
from .problems import DataError, Problem, limited
from .samples import CheckedPipeline, check_samples

__all__ = [
    'CheckedPipeline',
    'DataError',
    'Problem',
    'check_classes',
    'check_coco_annotations',
    'check_file',
    'check_label_map_file',
    'check_labels',
    'check_panoptic_annotations',
    'check_paths',
    'check_samples',
    'datasets',
    'first_test_set',
    'limited',
    'metrics',
    'panoptic_map_problem',
    'read_coco',
    'read_panoptic',
]
