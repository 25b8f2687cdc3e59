auto_scale_lr = dict(base_batch_size=8, enable=False)
channels = 64
custom_hooks = [
    dict(type='FiniteLossHook'),
]
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mmatm',
    ])
data_root = 'data/demo/ade20k'
default_hooks = dict(
    checkpoint=dict(
        by_epoch=False, interval=250, max_keep_ckpts=2, type='CheckpointHook'),
    logger=dict(interval=50, log_metric_by_epoch=False, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'),
    visualization=dict(type='SegVisualizationHook'))
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=False)
max_iters = 1000
model = dict(
    backbone=dict(arch='xt', drop_path_rate=0.0, type='ATMNet'),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_val=0,
        seg_pad_val=255,
        size=(
            96,
            96,
        ),
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type='SegDataPreProcessor'),
    decode_head=dict(
        align_corners=False,
        channels=64,
        dropout_ratio=0.1,
        feature_strides=[
            4,
            8,
            16,
            32,
        ],
        in_channels=[
            64,
            64,
            64,
            64,
        ],
        in_index=[
            0,
            1,
            2,
            3,
        ],
        loss_decode=dict(loss_weight=1.0, type='CrossEntropyLoss'),
        norm_cfg=dict(num_groups=16, requires_grad=True, type='GN'),
        num_classes=5,
        type='FPNHead'),
    neck=dict(
        in_channels=[
            64,
            128,
            320,
            512,
        ],
        norm_cfg=dict(num_groups=16, type='GN'),
        num_outs=4,
        out_channels=64,
        type='FPN'),
    test_cfg=dict(mode='whole'),
    train_cfg=dict(),
    type='EncoderDecoder')
norm_cfg = dict(num_groups=16, requires_grad=True, type='GN')
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0),
    optimizer=dict(
        betas=(
            0.9,
            0.99,
        ),
        fused=True,
        lr=0.001,
        type='AdamW',
        weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=100, start_factor=0.01, type='LinearLR'),
    dict(
        begin=100,
        by_epoch=False,
        end=1000,
        eta_min=0.0,
        power=0.9,
        type='PolyLR'),
]
randomness = dict(seed=7)
resume = False
size = (
    96,
    96,
)
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation'),
        data_root='data/demo/ade20k',
        img_suffix='.jpg',
        metainfo=dict(
            classes=(
                'background',
                'circle',
                'triangle',
                'square',
                'star',
            ),
            palette=[
                [
                    60,
                    60,
                    60,
                ],
                [
                    230,
                    60,
                    60,
                ],
                [
                    60,
                    180,
                    75,
                ],
                [
                    70,
                    110,
                    240,
                ],
                [
                    250,
                    200,
                    30,
                ],
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=False, scale=(
                96,
                96,
            ), type='Resize'),
            dict(reduce_zero_label=True, type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        reduce_zero_label=True,
        seg_map_suffix='.png',
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
train_cfg = dict(max_iters=1000, type='IterBasedTrainLoop', val_interval=1000)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'),
        data_root='data/demo/ade20k',
        img_suffix='.jpg',
        metainfo=dict(
            classes=(
                'background',
                'circle',
                'triangle',
                'square',
                'star',
            ),
            palette=[
                [
                    60,
                    60,
                    60,
                ],
                [
                    230,
                    60,
                    60,
                ],
                [
                    60,
                    180,
                    75,
                ],
                [
                    70,
                    110,
                    240,
                ],
                [
                    250,
                    200,
                    30,
                ],
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(reduce_zero_label=True, type='LoadAnnotations'),
            dict(keep_ratio=False, scale=(
                96,
                96,
            ), type='Resize'),
            dict(direction='horizontal', prob=0.5, type='RandomFlip'),
            dict(direction='vertical', prob=0.5, type='RandomFlip'),
            dict(type='PackSegInputs'),
        ],
        reduce_zero_label=True,
        seg_map_suffix='.png',
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=True, type='InfiniteSampler'))
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation'),
        data_root='data/demo/ade20k',
        img_suffix='.jpg',
        metainfo=dict(
            classes=(
                'background',
                'circle',
                'triangle',
                'square',
                'star',
            ),
            palette=[
                [
                    60,
                    60,
                    60,
                ],
                [
                    230,
                    60,
                    60,
                ],
                [
                    60,
                    180,
                    75,
                ],
                [
                    70,
                    110,
                    240,
                ],
                [
                    250,
                    200,
                    30,
                ],
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=False, scale=(
                96,
                96,
            ), type='Resize'),
            dict(reduce_zero_label=True, type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        reduce_zero_label=True,
        seg_map_suffix='.png',
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
visualizer = dict(
    name='visualizer',
    type='SegLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
