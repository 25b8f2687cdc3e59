_base_ = './mask_rcnn_atmnet_t.py'
model = dict(backbone=dict(arch='xt'))
