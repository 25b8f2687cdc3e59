_base_ = [
    '../_base_/models/faster_rcnn_atmnet.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/detection_runtime.py',
]
