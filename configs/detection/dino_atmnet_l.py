_base_ = './dino_atmnet_t.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.3),
    neck=dict(in_channels=[192, 384, 768]),
)
