_base_ = './mask2former_atmnet_t.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.3),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
)
