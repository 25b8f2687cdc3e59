"""mmdet's defaults, and the import that registers ATMNet, also in mmdet's own tools."""

_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['mmatm'], allow_failed_imports=False)
runner_type = 'ExactRunner'
default_hooks = dict(checkpoint=dict(type='DurableCheckpointHook'))
custom_hooks = [
    dict(type='FiniteLossHook'),
    dict(type='CheckDataHook'),
    dict(type='NumClassCheckHook'),
]
