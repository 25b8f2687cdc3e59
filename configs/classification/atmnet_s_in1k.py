_base_ = './atmnet_t_in1k.py'
model = dict(backbone=dict(arch='s'))
