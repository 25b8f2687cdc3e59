"""What the detectors add to mmdet's defaults, also in mmdet's own tools: ATMNet and its hooks."""

custom_imports = dict(imports=['mmatm'], allow_failed_imports=False)
runner_type = 'ExactRunner'
custom_hooks = [
    dict(type='FiniteLossHook'),
    dict(type='CheckDataHook'),
    dict(type='NumClassCheckHook'),
]
