_base_ = './faster_rcnn_atmnet_t.py'
model = dict(backbone=dict(arch='xt'))
