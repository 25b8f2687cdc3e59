"""UperNet on Cityscapes: 80k steps at batch size 8."""

_base_ = [
    '../_base_/models/upernet_atmnet.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/segmentation_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
)
train_dataloader = dict(batch_size=1)
train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=80000),
]
auto_scale_lr = dict(base_batch_size=8)
