_base_ = './mask2former_semantic_atmnet_t_640.py'
model = dict(backbone=dict(arch='xt'))
