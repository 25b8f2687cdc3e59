"""Heads that do not fit the classes of the training set."""

import pytest
from mmengine.registry import DefaultScope

from mmatm.data import DataError
from mmatm.engine.check_data import _check_classifier, _check_number

heads = pytest.importorskip('mmseg.models.decode_heads')
CLASSES = ('sky', 'road', 'car')


@pytest.fixture(autouse=True)
def _scope():
    """Find mmseg's losses, whatever scope other tests have left."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def check(number, classes=CLASSES, **settings):
    _check_number(heads.FCNHead(num_classes=number, in_channels=4, channels=4, **settings), classes)


def test_heads_that_have_all_labels():
    check(3)
    check(4)
    check(2, ignore_index=2)
    check(1, CLASSES[:2])
    check(2, CLASSES[:2], out_channels=1)
    check(3, ())


@pytest.mark.parametrize(
    ('number', 'settings'), [(2, {}), (1, {}), (2, dict(ignore_index=0)), (1, dict(ignore_index=1))]
)
def test_heads_that_lack_a_label(number, settings):
    with pytest.raises(DataError, match=f'FCNHead has num_classes={number}, but'):
        check(number, **settings)


def test_classifiers():
    head = pytest.importorskip('mmpretrain.models.heads').LinearClsHead
    with pytest.raises(DataError, match='LinearClsHead has num_classes=2, but'):
        _check_classifier(head(num_classes=2, in_channels=4), CLASSES)
    _check_classifier(head(num_classes=3, in_channels=4), CLASSES)
    _check_classifier(None, CLASSES)
    _check_classifier(head(num_classes=4, in_channels=4), CLASSES)
    _check_classifier(head(num_classes=4, in_channels=4), ())
