"""mmdet's defaults, and the import that registers ATMNet, also in mmdet's own tools."""

_base_ = ['mmdet::_base_/default_runtime.py', './detection_hooks.py']
default_hooks = dict(checkpoint=dict(type='DurableCheckpointHook'))
