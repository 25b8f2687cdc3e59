"""RetinaNet on ATMNet, for the arch xt, t, s and b; l has other widths.

Its pyramid starts at stride 8, so the backbone's first map is not even normalised: a norm without a
gradient would stop data-parallel training.
"""

_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True, type='ATMNet', arch='t', out_indices=(1, 2, 3), drop_path_rate=0.1
    ),
    neck=dict(in_channels=[128, 320, 512], start_level=0),
)
