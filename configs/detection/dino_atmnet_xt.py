_base_ = './dino_atmnet_t.py'
model = dict(backbone=dict(arch='xt'))
