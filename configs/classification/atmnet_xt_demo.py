"""ATMNet on the demo's images of one shape, trained from scratch in minutes on a CPU."""

_base_ = [
    '../_base_/models/classifier_atmnet.py',
    '../_base_/datasets/shapes_classification.py',
    '../_base_/schedules/demo_classification.py',
]
model = dict(
    data_preprocessor=dict(num_classes=4),
    # The paper initializes layers close to zero, which is too slow for such a short training.
    backbone=dict(arch='xt', drop_path_rate=0.0, init_cfg=dict(type='Xavier', layer='Linear')),
    head=dict(num_classes=4),
    train_cfg=None,
)
