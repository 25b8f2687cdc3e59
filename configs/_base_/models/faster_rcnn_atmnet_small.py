"""Faster R-CNN on ATMNet-xt with narrow parts, for training from scratch, also on a CPU."""

_base_ = './mask_rcnn_atmnet_small.py'
model = dict(
    type='FasterRCNN',
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
)
