_base_ = './mask2former_semantic_atmnet_t_640.py'
model = dict(backbone=dict(arch='s', drop_path_rate=0.2))
