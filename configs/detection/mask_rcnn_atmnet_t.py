_base_ = [
    '../_base_/models/mask_rcnn_atmnet.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/detection_runtime.py',
]
