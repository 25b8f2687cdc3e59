_base_ = './faster_rcnn_atmnet_t_ms_3x.py'
model = dict(backbone=dict(arch='xt'))
