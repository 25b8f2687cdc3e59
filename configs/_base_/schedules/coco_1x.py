"""12 epochs at batch size 16, as for similar backbones: the paper publishes no config."""

_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
# No weight decay for norms, biases and positional convolutions (arXiv 2203.06108).
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'.peg.': dict(decay_mult=0.0)}
    ),
)
