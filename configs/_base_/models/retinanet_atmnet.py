"""RetinaNet on ATMNet xt, t, s or b; l has other widths.

Its pyramid starts at stride 8, so the backbone does not return its first map: the norm would get no
gradient, which DistributedDataParallel rejects.
"""

_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True, type='ATMNet', arch='t', out_indices=(1, 2, 3), drop_path_rate=0.1
    ),
    neck=dict(in_channels=[128, 320, 512], start_level=0),
)
