_base_ = [
    '../_base_/models/classifier_atmnet.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_300.py',
    '../_base_/classification_runtime.py',
]
model = dict(backbone=dict(arch='l', drop_path_rate=0.2), head=dict(in_channels=768))
