_base_ = './mask2former_atmnet_t.py'
model = dict(backbone=dict(arch='b', drop_path_rate=0.3))
