_base_ = './dino_atmnet_t.py'
model = dict(backbone=dict(arch='s', drop_path_rate=0.2))
