"""Mask R-CNN on the demo data of tools/make_demo_data.py, from scratch, on a CPU in minutes.

Three stages, a narrow neck and heads, few proposals and small images.
"""

_base_ = [
    '../_base_/models/mask_rcnn_atmnet_small.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/demo_detection.py',
]
num_classes = 4
# Objects are 27 to 54 pixels, so all are pooled from the largest map.
pool = dict(featmap_strides=[4])
model = dict(
    # The last stage is left out, because it would see 3 x 3 tokens.
    backbone=dict(out_indices=(0, 1, 2)),
    neck=dict(in_channels=[64, 128, 320], num_outs=3),
    rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16], scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=pool,
        bbox_head=dict(num_classes=num_classes),
        mask_roi_extractor=pool,
        mask_head=dict(num_classes=num_classes),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=50),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=50), rcnn=dict(max_per_img=20)),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
