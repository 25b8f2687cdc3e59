_base_ = [
    '../_base_/models/classifier_atmnet.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_300.py',
    '../_base_/classification_runtime.py',
]
