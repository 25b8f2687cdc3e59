"""The metrics that tools/test.py prints, against their definitions."""

import pickle
import runpy

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from commands import DETECTOR, ROOT, SEGMENTOR, derive, metrics, run

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ITEMS = [
    'mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l',
    'AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000',
]  # fmt: skip


def coco_results(predictions, categories):
    """Predictions in the format of tools/test.py, as the COCO API takes them."""
    for sample in predictions:
        found = sample['pred_instances']
        for i, (x1, y1, x2, y2) in enumerate(found['bboxes'].tolist()):
            yield dict(
                image_id=sample['img_id'],
                category_id=categories[int(found['labels'][i])],
                score=float(found['scores'][i]),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                segmentation=found['masks'][i],
            )


def test_detector_scores_as_pycocotools(options, demo_data, tmp_path):
    # A few steps are enough to find something in the training images.
    annotations = f'{demo_data}/coco/annotations/instances_train2017.json'
    seen = [
        'test_dataloader.dataset.ann_file=annotations/instances_train2017.json',
        'test_dataloader.dataset.data_prefix.img=train2017/',
        f'test_evaluator.ann_file={annotations}',
    ]
    run('tools/train.py', DETECTOR, '--work-dir', tmp_path / 'work', *options,
        'train_cfg.max_epochs=12', 'train_cfg.val_interval=99',
        'default_hooks.checkpoint.interval=12')  # fmt: skip
    out = tmp_path / 'predictions.pkl'
    run(
        'tools/test.py', DETECTOR, tmp_path / 'work' / 'epoch_12.pth', '--work-dir', tmp_path,
        '--out', out, *options, *seen, f'test_evaluator.metric_items={ITEMS}'.replace(' ', ''),
        'model.test_cfg.rcnn.score_thr=0.0',
    )  # fmt: skip
    printed = metrics(tmp_path)

    coco = COCO(annotations)
    predictions = pickle.loads(out.read_bytes())
    results = list(coco_results(predictions, coco.getCatIds()))
    for kind in ('bbox', 'segm'):
        found = [dict(r) for r in results]
        for result in found:
            result.pop('bbox' if kind == 'segm' else 'segmentation')
        evaluation = COCOeval(coco, coco.loadRes(found), kind)
        evaluation.params.maxDets = [100, 300, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] > 0
        for item, value in zip(ITEMS, evaluation.stats, strict=True):
            assert printed[f'coco/{kind}_{item}'] == pytest.approx(value, abs=5.01e-4), item


def test_segmentor_scores_as_a_confusion_matrix(segmentor, seg_options, demo_data, tmp_path):
    maps = tmp_path / 'maps'
    run(
        'tools/test.py', SEGMENTOR, segmentor / 'iter_2.pth', '--work-dir', tmp_path,
        '--out', maps, *seg_options,
    )  # fmt: skip
    printed = metrics(tmp_path)

    confusion = np.zeros((5, 5), int)
    folder = demo_data / 'ade20k' / 'annotations' / 'validation'
    ignored = 0
    for file in folder.glob('*.png'):
        truth = np.array(Image.open(file)).astype(int) - 1
        found = np.array(Image.open(maps / file.name)).astype(int) - 1
        ignored += (truth < 0).sum()
        np.add.at(confusion, (truth[truth >= 0], found[truth >= 0]), 1)
    assert ignored > 0
    right, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    with np.errstate(invalid='ignore'):  # a class that is nowhere has no IoU
        expected = {
            'aAcc': 100 * right.sum() / confusion.sum(),
            'mIoU': 100 * np.nanmean(right / union),
            'mAcc': 100 * np.nanmean(right / confusion.sum(1)),
        }
    for name, value in expected.items():
        assert printed[name] == pytest.approx(value, abs=6e-3), name


ONE_VIEW = {
    DETECTOR: """
tta_model = dict(
    type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
)
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
transforms = [
    [dict(type='Resize', scale=(96, 96), keep_ratio=True)],
    [dict(type='RandomFlip', prob=0.0)],
    [dict(type='PackDetInputs', meta_keys=keys)],
]
""",
    SEGMENTOR: """
tta_model = dict(type='SegTTAModel')
transforms = [
    [dict(type='Resize', scale=(64, 64), keep_ratio=False)],
    [dict(type='LoadAnnotations', reduce_zero_label=True)],
    [dict(type='PackSegInputs')],
]
""",
}
PIPELINE = """
tta_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=transforms)
]
"""


@pytest.mark.parametrize(('base', 'metric'), [(DETECTOR, 'coco/bbox_mAP'), (SEGMENTOR, 'mIoU')])
def test_tta_of_one_view_changes_nothing(base, metric, request, tmp_path):
    config = derive(base, ONE_VIEW[base] + PIPELINE, tmp_path / 'one_view.py')
    if base == DETECTOR:
        checkpoint = request.getfixturevalue('detector') / 'epoch_1.pth'
        options = [*request.getfixturevalue('options'), 'model.test_cfg.rcnn.score_thr=0.0']
    else:
        checkpoint = request.getfixturevalue('segmentor') / 'iter_2.pth'
        options = request.getfixturevalue('seg_options')
    results = []
    for flags in ([], ['--tta']):
        work_dir = tmp_path / f'work{len(results)}'
        run('tools/test.py', config, checkpoint, '--work-dir', work_dir, *flags, *options)
        found = metrics(work_dir)
        results.append({k: v for k, v in found.items() if 'time' not in k and 'segm' not in k})
    assert results[0] == results[1]
    assert metric in results[0]


def test_tta_of_several_test_sets_and_other_metrics():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
    sets = dict(type='ConcatDataset', datasets=[dict(pipeline=pipeline), dict(pipeline=pipeline)])
    evaluators = [dict(type='VOCMetric', metric='mAP'), dict(type='CocoMetric', metric=['segm'])]
    model = dict(type='MaskRCNN', roi_head=dict(mask_head=dict(type='FCNMaskHead')))
    cfg = Config(
        dict(default_scope='mmdet', model=model, test_evaluator=evaluators,
             test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=sets)))
    )  # fmt: skip
    runpy.run_path(str(ROOT / 'tools/test.py'))['use_tta'](cfg)
    for dataset in cfg.test_dataloader.dataset.dataset.datasets:
        assert [step.type for step in dataset.pipeline] == ['LoadImageFromFile', 'TestTimeAug']
    assert [metric.metric for metric in cfg.test_evaluator] == ['mAP', 'bbox']


TWO_VIEWS = """
tta_model = dict(type='SegTTAModel')
transforms = [
    [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
    [dict(type='LoadAnnotations', reduce_zero_label=True)],
    [dict(type='PackSegInputs')],
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=False),
    dict(type='TestTimeAug', transforms=transforms),
]
"""


def test_tta_of_a_segmentor_flips(segmentor, seg_options, tmp_path):
    written = derive(SEGMENTOR, TWO_VIEWS, tmp_path / 'two_views.py')
    results = []
    for config in (SEGMENTOR, written):
        work_dir = tmp_path / f'work{len(results)}'
        checkpoint = segmentor / 'iter_2.pth'
        run('tools/test.py', config, checkpoint, '--work-dir', work_dir, '--tta', *seg_options)
        results.append({k: v for k, v in metrics(work_dir).items() if 'time' not in k})
    assert results[0] == results[1]
    assert 'mIoU' in results[0]
