"""Mask R-CNN on ATMNet-xt with narrow parts, for training from scratch, also on a CPU.

Neck and heads have norms, and Linear layers do not begin close to zero as in the paper: without
pretrained weights both learn faster so. Few regions are sampled, and every object gets one box, not
one per class that it could be.
"""

_base_ = './mask_rcnn_atmnet.py'
channels = 64
norm_cfg = dict(type='GN', num_groups=16)
pool = dict(out_channels=channels, roi_layer=dict(sampling_ratio=1))
model = dict(
    # A padding of zeros stays zero while the biases are, and norms multiply its gradients by 1000.
    data_preprocessor=dict(pad_value=1),
    backbone=dict(arch='xt', drop_path_rate=0.0, init_cfg=dict(type='Xavier', layer='Linear')),
    neck=dict(out_channels=channels, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=pool,
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=256,
            norm_cfg=norm_cfg,
            reg_class_agnostic=True,
            loss_cls=dict(loss_weight=2.0),
        ),
        mask_roi_extractor=pool,
        mask_head=dict(
            in_channels=channels, conv_out_channels=channels, num_convs=2, norm_cfg=norm_cfg
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200), rcnn=dict(nms=dict(class_agnostic=True))),
)
del pool
