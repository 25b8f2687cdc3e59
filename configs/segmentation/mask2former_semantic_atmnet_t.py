_base_ = [
    '../_base_/models/mask2former_atmnet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_mask2former_160k.py',
    '../_base_/segmentation_runtime.py',
]
# mmseg does not import mmdet by itself.
custom_imports = dict(imports=['mmatm', 'mmdet.models'])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoiceResize',
        scales=[side * 512 // 10 for side in range(5, 21)],
        resize_type='ResizeShortestEdge',
        max_size=2048,
    ),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
