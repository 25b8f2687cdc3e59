"""Semantic FPN on ATMNet-xt with a narrow neck and head, for training from scratch, also on a CPU.

Neck and head have norms of single images, and Linear layers do not begin close to zero as in the
paper: without pretrained weights and with small batches both learn faster so.
"""

_base_ = './fpn_atmnet.py'
channels = 64
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    # A padding of zeros stays zero while the biases are, and norms multiply its gradients by 1000.
    data_preprocessor=dict(pad_val=1),
    backbone=dict(arch='xt', drop_path_rate=0.0, init_cfg=dict(type='Xavier', layer='Linear')),
    neck=dict(out_channels=channels, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[channels] * 4, channels=channels, dropout_ratio=0.0, norm_cfg=norm_cfg
    ),
)
