"""ATMNet on the demo's pictures of one shape, from scratch, on a CPU in minutes."""

_base_ = [
    '../_base_/models/classifier_atmnet.py',
    '../_base_/datasets/shapes_classification.py',
    '../_base_/schedules/demo_classification.py',
]
model = dict(
    data_preprocessor=dict(num_classes=4),
    # Where so little is learnt, layers must not begin as near zero as the paper has them.
    backbone=dict(arch='xt', drop_path_rate=0.0, init_cfg=dict(type='Xavier', layer='Linear')),
    head=dict(num_classes=4),
    train_cfg=None,
)
