_base_ = [
    '../_base_/models/faster_rcnn_atmnet.py',
    '../_base_/datasets/coco_detection_ms.py',
    '../_base_/schedules/coco_3x.py',
    '../_base_/detection_runtime.py',
]
