"""UperNet on the demo data, from scratch, on a CPU in minutes: a narrow, group-normalised head."""

_base_ = [
    '../_base_/models/upernet_atmnet.py',
    '../_base_/datasets/shapes_segmentation.py',
    '../_base_/schedules/demo_segmentation.py',
]
norm_cfg = dict(type='GN', num_groups=16)
# Most pixels are background, which is learnt soonest.
class_weight = [0.2, 1.0, 1.0, 1.0, 1.0]
head = dict(channels=64, num_classes=5, dropout_ratio=0.0, norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch='xt', drop_path_rate=0.0),
    decode_head=dict(pool_scales=(1, 2), loss_decode=dict(class_weight=class_weight), **head),
    auxiliary_head=dict(loss_decode=dict(class_weight=class_weight), **head),
)
del head
