"""UperNet on the demo data, trained from scratch in minutes on a CPU. The head is narrow."""

_base_ = [
    '../_base_/models/upernet_atmnet.py',
    '../_base_/datasets/shapes_segmentation.py',
    '../_base_/schedules/demo_segmentation.py',
]
norm_cfg = dict(type='GN', num_groups=16)
head = dict(channels=64, num_classes=5, dropout_ratio=0.0, norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    # The paper initializes layers close to zero, which is too slow for such a short training. The
    # last stage is left out, because it would see 2 x 2 tokens.
    backbone=dict(
        arch='xt',
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
        init_cfg=dict(type='Xavier', layer='Linear'),
    ),
    decode_head=dict(
        in_channels=[64, 128, 320],
        in_index=[0, 1, 2],
        pool_scales=(1, 2),
        **head,
    ),
    auxiliary_head=head,
)
del head
