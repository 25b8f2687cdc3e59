"""Semantic FPN on the demo data, from scratch, on a CPU in minutes: a narrow, normalised head."""

_base_ = [
    '../_base_/models/fpn_atmnet.py',
    '../_base_/datasets/shapes_segmentation.py',
    '../_base_/schedules/demo_segmentation.py',
]
norm_cfg = dict(type='GN', num_groups=16)
channels = 64
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch='xt', drop_path_rate=0.0),
    neck=dict(out_channels=channels, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[channels] * 4,
        channels=channels,
        num_classes=5,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        # Most pixels are background, which is learnt soonest.
        loss_decode=dict(class_weight=[0.2, 1.0, 1.0, 1.0, 1.0]),
    ),
)
