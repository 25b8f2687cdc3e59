_base_ = './retinanet_atmnet_t.py'
model = dict(backbone=dict(arch='xt'))
