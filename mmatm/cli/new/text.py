"""The text of a config."""

import pprint
from pathlib import Path
from typing import Any

from ...data.formats import Found
from ...models.trunk import ARCHS
from ...report.images import colours
from .measuring import Measured
from .recipes import TITLES, Recipe, Schedule

_PADDING = 'zeros stay zero in all layers, and gradients explode there'


def config_text(
    measured: Measured,
    recipe: Recipe,
    schedule: Schedule,
    images: Path,
    annotations: Path,
    name: str,
) -> str:
    """Return the config.

    Args:
        measured: the data set.
        recipe: how to train.
        schedule: how long.
        images: folder that the paths of images are relative to.
        annotations: folder that :func:`mmatm.data.writing.write_dataset` wrote.
        name: of the data set.
    """
    found = measured.found
    parts = {
        'detection': _detector,
        'instance': _detector,
        'segmentation': _segmentor,
        'classification': _classifier,
    }[found.task](measured, recipe)
    counts = [len(measured.splits[split]) for split in ('train', 'val')]
    classes = f'{len(found.classes)} {"class" if len(found.classes) == 1 else "classes"}'
    title = f'{TITLES[recipe.head]} on ATMNet-{recipe.arch}'
    header = f'''"""{title} for {name}: {counts[0]} + {counts[1]} images, {classes}.

Written by "mmatm new". It is an ordinary config: edit it, and train with "mmatm train".
"""

_base_ = [
{_lines(parts['bases'])}]

# Images stay where they are. The annotations were written in the form that training reads.
data_root = {str(images)!r}
annotations = {str(annotations)!r}
metainfo = dict(
    classes={_wrapped(tuple(found.classes), 12)},
    palette={_wrapped(palette(found), 12)},
)
'''
    return header + parts['body'] + _schedule(found, recipe, schedule)


def palette(found: Found) -> list[tuple[int, int, int]]:
    """The colors of the classes, or distinct ones where the data has none."""
    if found.palette:
        return found.palette
    made = (bytes.fromhex(color[1:]) for color in colours({}, len(found.classes)))
    return [(red, green, blue) for red, green, blue in made]


def _lines(items: list[str]) -> str:
    return ''.join(f'    {item!r},\n' for item in items)


def _wrapped(value: Any, indent: int) -> str:
    text = pprint.pformat(value, width=96 - indent, compact=True)
    return text.replace('\n', '\n' + ' ' * indent)


def _backbone(recipe: Recipe) -> str:
    """Arguments of the backbone, apart from its type."""
    settings = [] if recipe.small and recipe.arch == 'xt' else [f'arch={recipe.arch!r}']
    if recipe.pretrained:
        delete = '_delete_=True, ' if recipe.small else ''
        file = f'checkpoint={recipe.pretrained!r}'
        settings.append(f"init_cfg=dict({delete}type='Pretrained', {file})")
    return f'dict({", ".join(settings)})'


def _tested(measured: Measured) -> str:
    return 'val' if measured.splits['test'] is measured.splits['val'] else 'test'


def _widths(recipe: Recipe, first: int = 0) -> list[int]:
    return list(ARCHS[recipe.arch]['widths'])[first:]


def _differs(recipe: Recipe) -> bool:
    """Whether the widths are not those that the bases have."""
    return ARCHS[recipe.arch]['widths'] != ARCHS['t']['widths']


def _base(recipe: Recipe, folder: str, name: str) -> str:
    small = '_small' if recipe.small and folder == 'models' else ''
    return f'mmatm::_base_/{folder}/{name}{small}.py'


def _model(recipe: Recipe, lines: list[str]) -> str:
    backbone = _backbone(recipe)
    if backbone != 'dict()':
        lines.insert(0, f'    backbone={backbone},')
    return '\n'.join(['model = dict(', *lines, ')'])


def _detector(measured: Measured, recipe: Recipe) -> dict[str, Any]:
    test = _tested(measured)
    number = len(measured.found.classes)
    masks = recipe.head == 'mask_rcnn'
    kind = 'instance' if masks else 'detection'
    schedules = ['demo_detection'] if recipe.small else ['coco_1x']
    bases = [
        _base(recipe, 'models', f'{recipe.head}_atmnet'),
        f'mmdet::_base_/datasets/coco_{kind}.py',
        *(_base(recipe, 'schedules', schedule) for schedule in schedules),
    ]
    if not recipe.small:
        bases.append('mmatm::_base_/detection_runtime.py')
    load = f"dict(type='LoadAnnotations', with_bbox=True{', with_mask=True' if masks else ''})"
    anchors = ', '.join(f'{key}={value!r}' for key, value in recipe.anchors.items())
    lines = []
    neck = []
    if _differs(recipe):
        neck.append(f'in_channels={_widths(recipe, recipe.head == "retinanet")}')
    if recipe.levels != 5:
        neck.append(f'num_outs={recipe.levels}')
    if neck:
        lines.append(f'    neck=dict({", ".join(neck)}),')
    if not (recipe.small or recipe.pretrained):  # as in the small models
        lines.append(f'    data_preprocessor=dict(pad_value=1),  # {_PADDING}')
    most = max(100, 2 * measured.most_objects)
    if recipe.head == 'retinanet':
        lines.append(
            f'    bbox_head=dict(\n        num_classes={number},\n        anchor_generator=dict(\n'
            f'            {anchors}\n        ),\n    ),'
        )
        if most > 100:
            lines.append(f'    test_cfg=dict(max_per_img={most}),')
    else:
        heads = [f'bbox_head=dict(num_classes={number})']
        if masks:
            heads.append(f'mask_head=dict(num_classes={number})')
        lines.append(f'    rpn_head=dict(anchor_generator=dict({anchors})),')
        lines.append(f'    roi_head=dict({", ".join(heads)}),')
        if most > 100:
            lines.append(f'    test_cfg=dict(rcnn=dict(max_per_img={most})),')
    body = f"""
scale = {recipe.scale}  # width and height that images are resized to; their ratio is kept
train_pipeline = [
    dict(type='LoadImageFromFile'),
    {load},
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    {load},
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
common = dict(data_root=data_root, data_prefix=dict(img=''), metainfo=metainfo)
train_dataloader = dict(
    batch_size={recipe.batch},
    num_workers={_workers(recipe)},
    dataset=dict(
        ann_file=annotations + '/train.json',
        filter_cfg=dict(filter_empty_gt=False),  # images without objects teach what is none
        pipeline=train_pipeline,
        **common,
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(ann_file=annotations + '/val.json', pipeline=test_pipeline, **common),
)
test_dataloader = dict(
    num_workers=1,
    dataset=dict(ann_file=annotations + '/{test}.json', pipeline=test_pipeline, **common),
)
val_evaluator = dict(ann_file=annotations + '/val.json')
test_evaluator = dict(ann_file=annotations + '/{test}.json')
del common

{_model(recipe, lines)}
"""
    return {'bases': bases, 'body': body}


def _workers(recipe: Recipe) -> int:
    return 1 if recipe.device == 'cpu' else 4


def _segmentor(measured: Measured, recipe: Recipe) -> dict[str, Any]:
    test = _tested(measured)
    found = measured.found
    number, scheme = len(found.classes), found.scheme
    ignore = scheme.ignore_index if scheme.linked else 255
    bases = [
        _base(recipe, 'models', f'{recipe.head}_atmnet'),
        'mmatm::_base_/datasets/own_segmentation.py',
    ]
    if recipe.small:
        bases.append('mmatm::_base_/schedules/demo_segmentation.py')
    else:
        name = {'fpn': 'ade20k_40k', 'upernet': 'ade20k_160k'}[recipe.head]
        bases += [f'mmatm::_base_/schedules/{name}.py', 'mmatm::_base_/segmentation_runtime.py']
    pad = f'seg_pad_val={ignore}'
    if not (recipe.small or recipe.pretrained):
        pad += ', pad_val=1'
    lines = [f'    data_preprocessor=dict(size=crop_size, {pad}),']
    if recipe.head == 'fpn' and _differs(recipe):
        lines.append(f'    neck=dict(in_channels={_widths(recipe)}),')
    settings = [f'num_classes={number}', f'ignore_index={ignore}']
    weight = ''
    if recipe.class_weight:
        text = _wrapped(recipe.class_weight, 16)
        weight = '# Rare classes weigh more, by the square root of their share.\n'
        weight += f'class_weight = {text}\n'
        settings.append('loss_decode=dict(class_weight=class_weight)')
    for head in ['decode_head', *(['auxiliary_head'] if recipe.head == 'upernet' else [])]:
        widths = []
        if recipe.head == 'upernet' and _differs(recipe):
            widths = [
                f'in_channels={_widths(recipe) if head == "decode_head" else _widths(recipe)[2]}'
            ]
        inner = ''.join(f'\n        {setting},' for setting in [*settings, *widths])
        lines.append(f'    {head}=dict({inner}\n    ),')
    zero = f'dict(type={"LoadAnnotations"!r}, reduce_zero_label={scheme.reduce_zero_label})'
    width, height = recipe.scale
    body = f"""
# The labels in the files: {_explained(found)}
ignore_index = {ignore}
scale = {recipe.scale}  # width and height that images are resized to; their ratio is kept
crop_size = {(height, width)}  # height and width
train_pipeline = [
    dict(type='LoadImageFromFile'),
    {zero},
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.9, ignore_index=ignore_index),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    {zero},
    dict(type='PackSegInputs'),
]
common = dict(
    data_prefix=dict(img_path=data_root, seg_map_path=annotations + '/labels'),
    metainfo=metainfo,
    ignore_index=ignore_index,
    reduce_zero_label={scheme.reduce_zero_label},
)
train_dataloader = dict(
    batch_size={recipe.batch},
    num_workers={_workers(recipe)},
    dataset=dict(ann_file=annotations + '/train.txt', pipeline=train_pipeline, **common),
)
val_dataloader = dict(
    dataset=dict(ann_file=annotations + '/val.txt', pipeline=test_pipeline, **common)
)
test_dataloader = dict(
    dataset=dict(ann_file=annotations + '/{test}.txt', pipeline=test_pipeline, **common)
)
val_evaluator = dict(ignore_index=ignore_index)
test_evaluator = val_evaluator
del common

{weight}{_model(recipe, lines)}
"""
    return {'bases': bases, 'body': body}


def _explained(found: Found) -> str:
    scheme = found.scheme
    if scheme.reduce_zero_label:
        return f'0 is ignored, 1 to {len(found.classes)} are the classes.'
    ignored = scheme.ignore_index if scheme.linked else 255
    return f'0 to {len(found.classes) - 1} are the classes, {ignored} is ignored.'


def _classifier(measured: Measured, recipe: Recipe) -> dict[str, Any]:
    test = _tested(measured)
    number = len(measured.found.classes)
    bases = [
        'mmatm::_base_/models/classifier_atmnet.py',
        'mmatm::_base_/datasets/own_classification.py',
    ]
    lines = [f'    data_preprocessor=dict(num_classes={number}),']
    head = [f'num_classes={number}']
    if _differs(recipe):
        head.append(f'in_channels={_widths(recipe)[-1]}')
    lines.append(f'    head=dict({", ".join(head)}),')
    if recipe.small:
        bases.append('mmatm::_base_/schedules/demo_classification.py')
        lines.append('    train_cfg=None,  # no Mixup and CutMix in a short training')
        init = "init_cfg=dict(type='Xavier', layer='Linear')"
        if recipe.pretrained:
            init = f"init_cfg=dict(type='Pretrained', checkpoint={recipe.pretrained!r})"
        lines.insert(0, f'    backbone=dict(arch={recipe.arch!r}, drop_path_rate=0.0, {init}),')
        model = '\n'.join(['model = dict(', *lines, ')'])
    else:
        bases += [
            'mmatm::_base_/schedules/imagenet_300.py',
            'mmatm::_base_/classification_runtime.py',
        ]
        model = _model(recipe, lines)
    body = f"""
side = {recipe.scale[0]}  # of the input in pixels
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=side, crop_ratio_range=(0.4, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=side, edge='short'),
    dict(type='CenterCrop', crop_size=side),
    dict(type='PackInputs'),
]
common = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size={recipe.batch},
    num_workers={_workers(recipe)},
    dataset=dict(ann_file=annotations + '/train.txt', pipeline=train_pipeline, **common),
)
val_dataloader = dict(
    dataset=dict(ann_file=annotations + '/val.txt', pipeline=test_pipeline, **common)
)
test_dataloader = dict(
    dataset=dict(ann_file=annotations + '/{test}.txt', pipeline=test_pipeline, **common)
)
del common

{model}
"""
    return {'bases': bases, 'body': body}


def _schedule(found: Found, recipe: Recipe, schedule: Schedule) -> str:
    lines = [f'optimizer=dict(lr={recipe.lr:g})']
    if not recipe.small:
        lines.append('clip_grad=dict(max_norm=5.0)')
    elif recipe.pretrained:  # the backbone is nearly there, the head begins
        lines.append("paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)})")
    warm_up = min(100 if recipe.small else 500, schedule.steps // 10)
    warm_up = warm_up if warm_up > 1 else 0  # one step would never leave its start factor
    linear = f"dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end={warm_up})"
    if found.task == 'segmentation':
        loop = f'max_iters={schedule.steps}, val_interval={schedule.interval}'
        decay = f'eta_min=0.0, power=0.9, by_epoch=False, begin={warm_up}, end={schedule.steps}'
        decay = f"dict(type='PolyLR', {decay})"
    else:
        loop = f'max_epochs={schedule.epochs}, val_interval={schedule.interval}'
        epochs = f'T_max={schedule.epochs}, begin=0, end={schedule.epochs}'
        decay = f"dict(type='CosineAnnealingLR', {epochs}, convert_to_iter_based=True)"
    hook = f'interval={schedule.interval}, max_keep_ckpts=2'
    logger = '' if recipe.small else 'logger=dict(interval=50), '
    return f"""
# {schedule.why[0].upper()}{schedule.why[1:]}.
train_cfg = dict({loop})
optim_wrapper = dict(
{''.join(f'    {line},' + chr(10) for line in lines)})
param_scheduler = [
{''.join(f'    {each},' + chr(10) for each in ([linear] if warm_up else []) + [decay])}]
auto_scale_lr = dict(base_batch_size={recipe.batch})
default_hooks = dict({logger}checkpoint=dict({hook}))
"""
