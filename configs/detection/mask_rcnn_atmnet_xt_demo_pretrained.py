"""The demo with a backbone pretrained by ../classification/atmnet_xt_demo.py."""

_base_ = './mask_rcnn_atmnet_xt_demo.py'
checkpoint = 'work_dirs/atmnet_xt_demo/epoch_5.pth'
model = dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=checkpoint)))
