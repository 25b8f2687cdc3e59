_base_ = './mask2former_panoptic_atmnet_t.py'
model = dict(backbone=dict(arch='xt'))
