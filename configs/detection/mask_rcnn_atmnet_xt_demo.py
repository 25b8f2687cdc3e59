"""Mask R-CNN on the demo data of tools/make_demo_data.py, from scratch, on a CPU in minutes.

Narrow neck and heads, few proposals and small pictures; normalised necks and heads because
nothing is pretrained.
"""

_base_ = [
    '../_base_/models/mask_rcnn_atmnet.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/demo_detection.py',
]

num_classes = 4
channels = 64
norm_cfg = dict(type='GN', num_groups=16)
# Objects are 27 to 54 pixels: one sample a bin is enough, and RoIAlign is slow on a CPU.
roi_layer = dict(sampling_ratio=1)
roi_levels = dict(out_channels=channels, finest_scale=28)

model = dict(
    # Where so little is learnt, layers must not begin as near zero as the paper has them.
    backbone=dict(arch='xt', drop_path_rate=0.0, init_cfg=dict(type='Xavier', layer='Linear')),
    neck=dict(out_channels=channels, num_outs=4, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=roi_layer, **roi_levels),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=num_classes),
        mask_roi_extractor=dict(roi_layer=roi_layer, **roi_levels),
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
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=48)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=20)),
)
