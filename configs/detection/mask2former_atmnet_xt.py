_base_ = './mask2former_atmnet_t.py'
model = dict(backbone=dict(arch='xt'))
