"""UperNet on the demo data, trained from scratch in minutes on a CPU. The head is narrow."""

_base_ = [
    '../_base_/models/upernet_atmnet_small.py',
    '../_base_/datasets/shapes_segmentation.py',
    '../_base_/schedules/demo_segmentation.py',
]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    # The last stage is left out, because it would see 2 x 2 tokens.
    backbone=dict(out_indices=(0, 1, 2)),
    decode_head=dict(in_channels=[64, 128, 320], in_index=[0, 1, 2], num_classes=5),
    auxiliary_head=dict(num_classes=5),
)
