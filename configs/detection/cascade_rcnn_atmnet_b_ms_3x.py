_base_ = './cascade_rcnn_atmnet_t_ms_3x.py'
model = dict(backbone=dict(arch='b', drop_path_rate=0.3))
