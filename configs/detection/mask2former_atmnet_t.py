"""Mask2Former for instance segmentation, 50 epochs of large-scale jitter, as mmdet has it: only the
backbone and what takes weight decay differ.
"""

_base_ = [
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    '../_base_/detection_hooks.py',
]
default_hooks = dict(checkpoint=dict(type='DurableCheckpointHook'))
model = dict(
    backbone=dict(_delete_=True, type='ATMNet', arch='t', drop_path_rate=0.1),
    panoptic_head=dict(in_channels=[64, 128, 320, 512]),
)
# A custom key 'backbone' would take precedence over norm_decay_mult and '.peg.'.
optim_wrapper = dict(
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        backbone_lr_mult=0.1,
        layer_decay=1.0,
        norm_decay_mult=0.0,
        custom_keys={
            name: dict(decay_mult=0.0)
            for name in ('.peg.', 'query_embed', 'query_feat', 'level_embed')
        },
    ),
)
