_base_ = './fpn_atmnet_t.py'
model = dict(backbone=dict(arch='xt'))
