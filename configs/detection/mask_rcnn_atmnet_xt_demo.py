"""Mask R-CNN on the demo data of tools/make_demo_data.py, from scratch, on a CPU in minutes.

Three stages, a narrow neck and heads, few proposals and small images; normalised necks and heads
because nothing is pretrained.
"""

_base_ = [
    '../_base_/models/mask_rcnn_atmnet.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/demo_detection.py',
]

num_classes = 4
channels = 64
norm_cfg = dict(type='GN', num_groups=16)
# Objects are 27 to 54 pixels: all are pooled from the largest map, with one sample per bin.
pool = dict(featmap_strides=[4], out_channels=channels, roi_layer=dict(sampling_ratio=1))

model = dict(
    # Where so little is learnt, layers must not begin as near zero as the paper has them, and the
    # last stage would see 3 x 3 tokens.
    backbone=dict(
        arch='xt',
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
        init_cfg=dict(type='Xavier', layer='Linear'),
    ),
    neck=dict(in_channels=[64, 128, 320], out_channels=channels, num_outs=3, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(strides=[4, 8, 16], scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=pool,
        # Finding a shape is easy and telling which one it is is not: convolutions look at it, the
        # loss of the class weighs more, and one box per region, not one per class, is learnt.
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=256,
            num_classes=num_classes,
            norm_cfg=norm_cfg,
            reg_class_agnostic=True,
            loss_cls=dict(loss_weight=2.0),
        ),
        mask_roi_extractor=pool,
        mask_head=dict(
            in_channels=channels,
            conv_out_channels=channels,
            num_convs=2,
            num_classes=num_classes,
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=50),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    # One object gets one box, not one per class that it could be.
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=50),
        rcnn=dict(nms=dict(class_agnostic=True), max_per_img=20),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
