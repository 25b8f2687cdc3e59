_base_ = './fpn_atmnet_t.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
