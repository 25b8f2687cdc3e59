"""Every comparison of the benchmark, on tiny models and images."""

import pytest

from mmatm.measuring import timing
from mmatm.measuring.comparisons import NAMES, Suite, report
from mmatm.measuring.timing import measure

TINY = dict(depths=(2, 2, 2, 2), widths=(8, 16, 24, 32), mlp_ratios=(2, 2, 2, 2),
            shares=(2, 4, 4, 8), interval=2)  # fmt: skip
NEEDS = {'detector': ['mmdet'], 'segmentor': ['mmseg'], 'onnx': ['onnx', 'onnxruntime']}


SMALL = dict(
    arch=TINY, peers={'convnext-t': 'test_convnext'}, large=(64, 96), medium=(64, 64),
    small=(32, 32), squares=(32, 64), detectors={'Mask R-CNN': 'mask_rcnn_atmnet_xt'},
    segmentors={'Semantic FPN': 'fpn_atmnet_xt'},
)  # fmt: skip


@pytest.mark.parametrize('name', NAMES)
def test_every_comparison_is_measured(name, monkeypatch):
    for package in NEEDS.get(name, []):
        pytest.importorskip(package)
    # Trimming the memory of a process that has run other tests takes half a second per case.
    monkeypatch.setattr(timing, 'peak_memory', lambda call, device: 1.0)
    for attribute, value in SMALL.items():
        monkeypatch.setattr(Suite, attribute, value)
    comparisons = getattr(Suite(), name)()
    assert comparisons
    for comparison in comparisons:
        results = measure(comparison, 1, 'cpu')
        assert all(result['seconds'] > 0 for result in results.values())
        known = [target for target in comparison.targets if target.other in results]
        assert len(report(comparison, results)) == len(known) + (name == 'linearity')
