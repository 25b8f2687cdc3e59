_base_ = [
    '../_base_/models/fpn_atmnet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_40k.py',
    '../_base_/segmentation_runtime.py',
]
train_dataloader = dict(batch_size=4)
