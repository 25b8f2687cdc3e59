"""RetinaNet on the demo data of tools/make_demo_data.py, trained from scratch in minutes on a CPU.

The neck and the head are narrow.
"""

_base_ = [
    '../_base_/models/retinanet_atmnet_small.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/demo_detection.py',
]
channels = 64
model = dict(
    # The last stage is left out, because it would see 3 x 3 tokens.
    backbone=dict(out_indices=(1, 2)),
    neck=dict(in_channels=[128, 320], out_channels=channels, num_outs=3),
    bbox_head=dict(
        num_classes=4,
        in_channels=channels,
        feat_channels=channels,
        # Objects are 27 to 54 pixels.
        anchor_generator=dict(strides=[8, 16, 32], octave_base_scale=3),
    ),
    test_cfg=dict(nms_pre=300, max_per_img=20),
)
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
