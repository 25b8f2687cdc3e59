"""mmpretrain's defaults, and the import that registers ATMNet (mmpretrain's own tools need it too).

custom_hooks are the schedule's.
"""

_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmatm'], allow_failed_imports=False)
runner_type = 'ExactRunner'
default_hooks = dict(checkpoint=dict(type='DurableCheckpointHook', max_keep_ckpts=3))
