"""RetinaNet on ATMNet-xt with a narrow neck and head, for training from scratch, also on a CPU.

Neck and head have norms, and Linear layers do not begin close to zero as in the paper: without
pretrained weights both learn faster so.
"""

_base_ = './retinanet_atmnet.py'
channels = 128
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    # A padding of zeros stays zero while the biases are, and norms multiply its gradients by 1000.
    data_preprocessor=dict(pad_value=1),
    backbone=dict(arch='xt', drop_path_rate=0.0, init_cfg=dict(type='Xavier', layer='Linear')),
    neck=dict(out_channels=channels, norm_cfg=norm_cfg),
    bbox_head=dict(
        in_channels=channels, feat_channels=channels, stacked_convs=2, norm_cfg=norm_cfg
    ),
)
