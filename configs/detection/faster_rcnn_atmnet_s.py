_base_ = './faster_rcnn_atmnet_t.py'
model = dict(backbone=dict(arch='s', drop_path_rate=0.2))
