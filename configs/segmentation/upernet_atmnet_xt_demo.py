"""UperNet on the demo data, from scratch, on a CPU in minutes: a narrow, group-normalised head."""

_base_ = [
    '../_base_/models/upernet_atmnet.py',
    '../_base_/datasets/shapes_segmentation.py',
    '../_base_/schedules/demo_segmentation.py',
]
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch='xt', drop_path_rate=0.0),
    decode_head=dict(channels=64, pool_scales=(1, 2, 3), num_classes=5, norm_cfg=norm_cfg),
    auxiliary_head=dict(channels=64, num_classes=5, norm_cfg=norm_cfg),
)
