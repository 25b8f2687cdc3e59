_base_ = './faster_rcnn_atmnet_t.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
