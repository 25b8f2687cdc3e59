_base_ = './upernet_atmnet_t.py'
model = dict(backbone=dict(arch='xt'))
