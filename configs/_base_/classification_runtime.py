"""mmpretrain's defaults, and the import that registers ATMNet, also in mmpretrain's own tools.

The schedule sets custom_hooks.
"""

_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmatm'], allow_failed_imports=False)
runner_type = 'ExactRunner'
default_hooks = dict(checkpoint=dict(type='DurableCheckpointHook', max_keep_ckpts=3))
