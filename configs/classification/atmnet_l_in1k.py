_base_ = './atmnet_t_in1k.py'
model = dict(backbone=dict(arch='l', drop_path_rate=0.2), head=dict(in_channels=768))
