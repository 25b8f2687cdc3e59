"""Mask R-CNN 1x on LVIS v1: 1203 classes, rare ones drawn more often, up to 300 objects."""

_base_ = [
    '../_base_/models/mask_rcnn_atmnet.py',
    'mmdet::_base_/datasets/lvis_v1_instance.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/detection_runtime.py',
]
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=1203), mask_head=dict(num_classes=1203)),
    test_cfg=dict(rcnn=dict(score_thr=1e-4, max_per_img=300)),
)
