"""160k steps at batch size 16, as published for Mask2Former."""

_base_ = './ade20k_160k.py'
# A custom key 'backbone' would take precedence over norm_decay_mult and '.peg.'.
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(
        backbone_lr_mult=0.1,
        layer_decay=1.0,
        norm_decay_mult=0.0,
        custom_keys={
            name: dict(decay_mult=0.0)
            for name in ('.peg.', 'query_embed', 'query_feat', 'level_embed')
        },
    ),
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=160000)]
