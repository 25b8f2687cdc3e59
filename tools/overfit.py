#!/usr/bin/env python
"""Train heads on eight demo images until they know them: python tools/overfit.py [HEAD ...]

Shows that a head and its losses can learn, on a CPU and in minutes. Each is the packaged config of
ATMNet-xt, made smaller, trained from scratch on images of 96 x 96 pixels without augmentation, and
evaluated on the same images. Prints a Markdown table. The status is 1 if a head misses its target.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmatm.cli.arguments import read_config, run_tool
from mmatm.cli.numbers import at_least
from mmatm.report.history import read_history

BOXES = 'coco/bbox_mAP_50', 0.95
MASKS = 'coco/segm_mAP_50', 0.90
SEGMENTS = 'coco_panoptic/PQ', 80.0
LABELS = 'mIoU', 90.0
# config: metric and target, steps at most
HEADS: dict[str, tuple[tuple[str, float], int]] = {
    'retinanet_atmnet_xt': (BOXES, 800),
    'faster_rcnn_atmnet_xt': (BOXES, 800),
    'cascade_rcnn_atmnet_xt_ms_3x': (BOXES, 800),
    'dino_atmnet_xt': (BOXES, 1200),
    'mask_rcnn_atmnet_xt': (MASKS, 800),
    'cascade_mask_rcnn_atmnet_xt_ms_3x': (MASKS, 800),
    'mask2former_atmnet_xt': (MASKS, 1200),
    'mask2former_panoptic_atmnet_xt': (SEGMENTS, 1200),
    'upernet_atmnet_xt': (LABELS, 800),
    'fpn_atmnet_xt': (LABELS, 800),
    'mask2former_semantic_atmnet_xt': (LABELS, 1200),
}
CLASSES = ('circle', 'triangle', 'square', 'star')
IMAGES, SIZE, INTERVAL, CHANNELS = 8, 96, 50, 64
NORM = dict(type='GN', num_groups=16)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split(': ')[0])
    parser.add_argument(
        'heads', nargs='*', metavar='HEAD', help=f'(default: all) {", ".join(HEADS)}'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/overfit'))
    parser.add_argument('--steps', type=at_least(10), help='train for fewer steps than usual')
    args = parser.parse_args()
    for name in args.heads:
        if name not in HEADS:
            parser.error(f'HEAD must be one of {", ".join(HEADS)}, but is {name}')

    data = args.work_dir / 'data'
    few = ('--val', 1, '--imagenet-train', 4, '--imagenet-val', 4)
    if status := run_tool('make_demo_data', '--out', data, '--train', IMAGES, *few):
        sys.exit(status)
    rows, missed = [], []
    for name in args.heads or HEADS:
        (metric, target), _ = HEADS[name]
        work_dir = args.work_dir / name
        work_dir.mkdir(parents=True, exist_ok=True)
        config = work_dir / f'{name}.py'
        settings(name, data, args.steps).dump(config)
        started = time.monotonic()
        status = run_tool('train', config, '--work-dir', work_dir)
        seconds = time.monotonic() - started
        reached, steps = (None, None) if status else best(work_dir, metric)
        if reached is None or reached < target:
            missed.append(name)
        value = '-' if reached is None else f'{reached:.3f}'
        rows.append(f'| {name} | {metric} | {target} | {value} | {steps} | {seconds:.0f} s |')
    print('\n| head | metric | target | reached | steps | time |')
    print('|---|---|---|---|---|---|')
    print(*rows, sep='\n')
    if missed:
        sys.exit(f'these missed their targets: {", ".join(missed)}')


def best(work_dir: Path, metric: str) -> tuple[float | None, int | None]:
    """The highest value of a metric in the newest run of ``work_dir``, and its step."""
    found = read_history(work_dir).metrics.get(metric, {})
    return max(((value, step) for step, value in found.items()), default=(None, None))


def settings(name: str, data: Path, steps: int | None = None) -> Config:
    """The config of a head, made small, on the demo data in ``data``."""
    cfg = read_config(name)
    (metric, target), most = HEADS[name]
    steps = min(steps or most, most)
    cfg.merge_from_dict(
        dict(
            model=dict(
                # As published, layers begin close to zero, which takes long to leave.
                backbone=dict(drop_path_rate=0.0, init_cfg=dict(type='Xavier', layer='Linear')),
            ),
            default_hooks=dict(
                checkpoint=dict(by_epoch=False, interval=steps, save_last=False),
                logger=dict(interval=INTERVAL, log_metric_by_epoch=False),
            ),
            log_processor=dict(by_epoch=False),
            randomness=dict(seed=0),
        )
    )
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=steps, val_interval=min(INTERVAL, steps)
    )
    warm = min(50, steps // 2)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm),
        dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=warm, end=steps),
    ]
    stop = dict(type='EarlyStoppingHook', monitor=metric, rule='greater', patience=steps)
    cfg.custom_hooks = [*cfg.custom_hooks, dict(stop, stopping_threshold=target - 1e-6)]
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4),
        clip_grad=dict(max_norm=5.0),
    )
    if cfg.default_scope == 'mmseg':
        segmentation(cfg, data / 'ade20k')
    else:
        detection(cfg, data / 'coco')
    model = cfg.model
    if 'mask2former' in name:
        mask2former(model)
    elif model.type == 'DINO':
        dino(model)
    elif cfg.default_scope == 'mmseg':
        segmentor(model)
    else:
        pyramid(model)
    return cfg


def loader(dataset: dict, batch_size: int = 4, shuffle: bool = False) -> dict:
    kind = 'InfiniteSampler' if shuffle else 'DefaultSampler'
    sampler = dict(type=kind, shuffle=shuffle)
    return dict(batch_size=batch_size, num_workers=0, sampler=sampler, dataset=dataset)


def detection(cfg: Config, root: Path) -> None:
    """Let a detector train and be evaluated on the demo data's training images."""
    panoptic = cfg.train_dataloader.dataset.type == 'CocoPanopticDataset'
    masks = 'mask' in cfg.model.get('roi_head', {}).get('mask_head', {}).get('type', '').lower()
    masks |= cfg.model.type == 'Mask2Former'
    kind = 'panoptic' if panoptic else 'instances'
    annotations = f'annotations/{kind}_train2017'
    dataset = dict(
        type='CocoPanopticDataset' if panoptic else 'CocoDataset',
        data_root=f'{root}/',
        ann_file=f'{annotations}.json',
        data_prefix=dict(img='train2017/'),
        metainfo=dict(classes=CLASSES),
    )
    loading: dict[str, Any] = dict(type='LoadAnnotations', with_bbox=True, with_mask=masks)
    metric = dict(type='CocoMetric', ann_file=f'{root}/{annotations}.json')
    metric.update(metric=['bbox', 'segm'] if masks else 'bbox')
    if panoptic:
        dataset['data_prefix'].update(seg=f'{annotations}/')
        classes = (*CLASSES, 'background')
        dataset['metainfo'] = dict(
            classes=classes, thing_classes=CLASSES, stuff_classes=classes[4:]
        )
        loading = dict(type='LoadPanopticAnnotations')
        metric = dict(
            type='CocoPanopticMetric',
            ann_file=f'{root}/{annotations}.json',
            seg_prefix=f'{root}/{annotations}/',
            nproc=1,
        )
    resize = dict(type='Resize', scale=(SIZE, SIZE))
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    read = dict(type='LoadImageFromFile')
    cfg.train_dataloader = loader(
        dict(dataset, pipeline=[read, loading, resize, dict(type='PackDetInputs')]), shuffle=True
    )
    pipeline = [read, resize, loading, dict(type='PackDetInputs', meta_keys=keys)]
    cfg.val_dataloader = loader(dict(dataset, test_mode=True, pipeline=pipeline))
    cfg.test_dataloader = cfg.val_dataloader
    cfg.val_evaluator = cfg.test_evaluator = metric


def segmentation(cfg: Config, root: Path) -> None:
    """Let a segmentor train and be evaluated on the demo data's training images."""
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        metainfo=dict(classes=('background', *CLASSES), palette=[[i, i, i] for i in range(5)]),
        img_suffix='.jpg',
        seg_map_suffix='.png',
        reduce_zero_label=True,
    )
    read = dict(type='LoadImageFromFile')
    loading = dict(type='LoadAnnotations', reduce_zero_label=True)
    resize = dict(type='Resize', scale=(SIZE, SIZE))
    pack = dict(type='PackSegInputs')
    cfg.train_dataloader = loader(
        dict(dataset, pipeline=[read, loading, resize, pack]), shuffle=True
    )
    cfg.val_dataloader = loader(dict(dataset, pipeline=[read, resize, loading, pack]))
    cfg.test_dataloader = cfg.val_dataloader
    cfg.model.data_preprocessor.size = (SIZE, SIZE)


def pyramid(model: Any) -> None:
    """RetinaNet, and Faster, Mask and Cascade R-CNN: fewer channels, regions and anchors; norms."""
    model.neck.update(out_channels=CHANNELS, norm_cfg=NORM)
    if model.type == 'RetinaNet':
        model.bbox_head.update(
            num_classes=len(CLASSES), in_channels=CHANNELS, feat_channels=CHANNELS, norm_cfg=NORM
        )
        model.bbox_head.anchor_generator.octave_base_scale = 3
        return
    model.rpn_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
    model.rpn_head.anchor_generator.scales = [4]
    roi = model.roi_head
    for part in ('bbox', 'mask'):
        if f'{part}_head' not in roi:
            continue
        roi[f'{part}_roi_extractor'].out_channels = CHANNELS
        heads = roi[f'{part}_head']
        for head in heads if isinstance(heads, list) else [heads]:
            head.update(num_classes=len(CLASSES), in_channels=CHANNELS)
            if part == 'bbox':
                head.fc_out_channels = 256
            else:
                head.update(conv_out_channels=CHANNELS, num_convs=2, norm_cfg=NORM)
    model.train_cfg.rpn.sampler.num = 64
    model.train_cfg.rpn_proposal.update(nms_pre=300, max_per_img=50)
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.update(num=64, pos_fraction=0.5)
    model.test_cfg.rpn.update(nms_pre=300, max_per_img=50)
    model.test_cfg.rcnn.max_per_img = 20


def dino(model: Any) -> None:
    """DINO with fewer queries and layers."""
    model.num_queries = 30
    model.encoder.num_layers, model.decoder.num_layers = 2, 3
    for part in (model.encoder, model.decoder):
        part.layer_cfg.ffn_cfg.feedforward_channels = 512
    model.bbox_head.num_classes = len(CLASSES)
    model.dn_cfg.group_cfg.num_dn_queries = 20
    model.test_cfg.max_per_img = 20


def mask2former(model: Any) -> None:
    """Mask2Former of any task with fewer queries, layers and points."""
    semantic = 'decode_head' in model
    head = model.decode_head if semantic else model.panoptic_head
    count = len(CLASSES)
    if semantic:
        count += 1
        head.num_classes = count
    else:
        stuff = int(head.num_stuff_classes > 0)
        for part in (head, model.panoptic_fusion_head):
            part.update(num_things_classes=count, num_stuff_classes=stuff)
        count += stuff
        for augment in model.data_preprocessor.batch_augments:
            augment.size = (SIZE, SIZE)
        model.test_cfg.max_per_image = 20
    head.loss_cls.class_weight = [1.0] * count + [0.1]
    head.num_queries = 20
    head.transformer_decoder.num_layers = 3
    head.transformer_decoder.layer_cfg.ffn_cfg.feedforward_channels = 512
    head.pixel_decoder.encoder.num_layers = 2
    head.pixel_decoder.encoder.layer_cfg.ffn_cfg.feedforward_channels = 512
    (head if semantic else model).train_cfg.num_points = 1024


def segmentor(model: Any) -> None:
    """UperNet and Semantic FPN with fewer channels."""
    if 'neck' in model:
        model.neck.update(out_channels=CHANNELS, norm_cfg=NORM)
        model.decode_head.in_channels = [CHANNELS] * 4
    for head in filter(None, (model.decode_head, model.get('auxiliary_head'))):
        head.update(
            channels=CHANNELS, num_classes=len(CLASSES) + 1, norm_cfg=NORM, dropout_ratio=0.0
        )
    if 'pool_scales' in model.decode_head:
        model.decode_head.pool_scales = (1, 2)


if __name__ == '__main__':
    main()
