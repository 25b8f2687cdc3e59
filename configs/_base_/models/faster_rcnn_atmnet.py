"""Faster R-CNN with FPN on ATMNet xt, t, s or b; l has other widths."""

_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
model = dict(
    backbone=dict(_delete_=True, type='ATMNet', arch='t', drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
