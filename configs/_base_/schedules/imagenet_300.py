"""300 epochs at batch size 1024, as published: AdamW with lr 5e-4 per 512 images, EMA weights."""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# No weight decay for norms, biases and positional convolutions (arXiv 2203.06108).
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'.peg.': dict(decay_mult=0.0)}
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=5, end=300),
]
auto_scale_lr = dict(enable=False, base_batch_size=1024)
# Decay 0.99996. Evaluation uses the EMA weights, and checkpoints store them as state_dict.
custom_hooks = [
    dict(type='FiniteLossHook'),
    dict(type='CheckDataHook'),
    dict(type='EMAHook', momentum=4e-5),
]
