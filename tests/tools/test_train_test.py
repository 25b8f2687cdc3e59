"""tools/train.py and tools/test.py end to end on tiny generated datasets."""

import json
import os
import pickle
import runpy
import shutil
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from commands import DETECTOR, ROOT, SEGMENTOR, derive, run, scalars, start
from mmatm.report.history import read_history
from mmatm.utils.operators import status
from reference import published_state_dict

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


def test_train_saves_and_evaluates(detector, segmentor):
    assert (detector / 'epoch_1.pth').is_file()
    assert any('coco/bbox_mAP_50' in line for line in scalars(detector))
    assert (segmentor / 'iter_2.pth').is_file()
    assert any('mIoU' in line for line in scalars(segmentor))


def test_resume_continues(detector, options, tmp_path):
    work_dir = tmp_path / 'work'
    shutil.copytree(detector, work_dir)
    (work_dir / 'last_checkpoint').unlink()  # as if killed just before it was written
    run(
        'tools/train.py', DETECTOR, '--work-dir', work_dir, '--continue',
        '--resume', tmp_path / 'first.pth', *options, 'train_cfg.max_epochs=2',
    )  # fmt: skip
    assert (work_dir / 'epoch_2.pth').is_file()
    assert [line['step'] for line in scalars(work_dir) if 'coco/bbox_mAP' in line] == [2]
    assert read_history(work_dir).resumed == [3]


def test_test_dumps_draws_and_scores(detector, options, tmp_path):
    out = tmp_path / 'predictions.pkl'
    printed = run(
        ROOT / 'tools/test.py', ROOT / DETECTOR, detector / 'epoch_1.pth',
        '--work-dir', tmp_path / 'work', '--out', out, '--show-dir', 'show', *options, cwd=tmp_path,
    )  # fmt: skip
    assert 'coco/bbox_mAP_50' in printed
    assert 'coco/segm_mAP_50' in printed
    with out.open('rb') as file:
        predictions = pickle.load(file)
    assert len(predictions) == 4
    assert 'masks' in predictions[0]['pred_instances']
    assert len(list((tmp_path / 'show').glob('*.jpg'))) == 4

    sheet = tmp_path / 'sheet.png'
    printed = run(
        'tools/contact_sheet.py', DETECTOR, out, '--out', sheet, '--rows', 1, '--columns', 2,
        *options,
    )  # fmt: skip
    assert str(sheet) in printed
    assert sheet.stat().st_size > 1000


class Images(list):
    """The part of mm's data sets that tells the files."""

    def get_data_info(self, index):
        return {'img_path': self[index]}


def test_segmentor_writes_label_maps(segmentor, seg_options, tmp_path):
    maps, sheet = tmp_path / 'maps', tmp_path / 'sheet.png'
    several = derive(SEGMENTOR, "test_evaluator = [dict(type='IoUMetric')]", tmp_path / 'mine.py')
    printed = run(
        'tools/test.py', several, segmentor / 'iter_2.pth', '--work-dir', tmp_path / 'work',
        '--out', maps, '--show-dir', tmp_path / 'show', *seg_options,
    )  # fmt: skip
    assert 'mIoU' in printed
    assert len(list(maps.glob('*.png'))) == 4
    same_file = runpy.run_path(str(ROOT / 'tools/test.py'))['same_file']
    clash = same_file(Images(['a/1.jpg', 'b/1.jpg']), '--out', '.png')
    assert 'a/1.jpg and b/1.jpg are the same file, 1.png' in clash
    assert same_file(Images(['a/1.jpg', 'a/1.png', None, None]), '--show-dir') is None
    assert len(list((tmp_path / 'show').rglob('*.png'))) == 4
    printed = run(
        'tools/contact_sheet.py', SEGMENTOR, maps, '--out', sheet, '--rows', 2, '--columns', 2,
        *seg_options,
    )  # fmt: skip
    assert str(sheet) in printed
    assert sheet.stat().st_size > 1000


def test_test_time_augmentation(detector, options, tmp_path):
    """With the config of a resumed run, whose training data is gone."""
    printed = run(
        'tools/test.py', DETECTOR, detector / 'epoch_1.pth', '--work-dir', tmp_path, '--tta',
        *options, 'resume=True', 'train_dataloader.dataset.ann_file=none.json',
    )  # fmt: skip
    assert 'coco/bbox_mAP_50' in printed


def test_checkpoint_of_another_head_is_rejected(segmentor, options, tmp_path):
    printed = run(
        'tools/test.py', DETECTOR, segmentor / 'iter_2.pth', '--work-dir', tmp_path, *options,
        code=1,
    )  # fmt: skip
    assert 'rpn_head' in printed.splitlines()[-1]
    assert 'Traceback' not in printed


@pytest.mark.parametrize('config', [DETECTOR, SEGMENTOR])
def test_mixed_precision_on_a_cpu(config, options, seg_options, tmp_path):
    choice = options if config == DETECTOR else seg_options
    run('tools/train.py', config, '--work-dir', tmp_path, '--amp', *choice)
    losses = [line['loss'] for line in scalars(tmp_path) if 'loss' in line]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)


def test_loss_that_is_not_finite_stops(seg_options, tmp_path):
    printed = run(
        'tools/train.py', SEGMENTOR, '--work-dir', tmp_path, *seg_options,
        'optim_wrapper.clip_grad=None', 'optim_wrapper.optimizer.lr=1e30',
        'param_scheduler=[]', 'train_cfg.max_iters=9', code=1,
    )  # fmt: skip
    said = printed.strip().splitlines()[-1]
    assert said.startswith('training stopped at iteration 2: decode.loss_ce is nan')
    assert 'Traceback' not in printed


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ('train_dataloader.dataset.metainfo.classes=("circle","hexagon","square","star")',
         "has no category 'hexagon'; it has 'circle', 'triangle', 'square', 'star'"),
        ('train_dataloader.dataset.metainfo.classes=star', "a tuple of one name is ('star',)"),
        ('model.roi_head.bbox_head.num_classes=80', 'num_classes'),
    ],
)  # fmt: skip
def test_wrong_classes_are_rejected(change, said, options, tmp_path):
    printed = run('tools/train.py', DETECTOR, '--work-dir', tmp_path, *options, change, code=1)
    assert said in printed
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ('model.decode_head.num_classes=3', 'FPNHead has num_classes=3, but'),
        ('val_evaluator.iou_metrics=mIuO', 'knows only mDice, mFscore, mIoU'),
    ],
)
def test_settings_of_a_segmentor_are_checked(change, said, seg_options, tmp_path):
    command = 'tools/train.py', SEGMENTOR, '--work-dir', tmp_path, *seg_options, change
    printed = run(*command, code=1)
    assert said in printed.strip().splitlines()[-1]
    assert 'Traceback' not in printed


def test_resuming_from_another_model_is_one_sentence(segmentor, options, tmp_path):
    printed = run(
        'tools/train.py', DETECTOR, '--work-dir', tmp_path, '--resume', segmentor / 'iter_2.pth',
        *options, code=1,
    )  # fmt: skip
    assert 'does not fit the config' in printed.strip().splitlines()[-1]
    assert 'Traceback' not in printed


def test_interrupted_training_tells_how_to_continue(seg_options, tmp_path):
    out, err = tmp_path / 'out', tmp_path / 'err'
    process = start(
        'tools/train.py', SEGMENTOR, '--work-dir', tmp_path, *seg_options,
        'train_cfg.max_iters=100000', 'train_cfg.val_interval=100000', out=out, err=err,
    )  # fmt: skip
    deadline = time.monotonic() + 280
    while not list(tmp_path.glob('iter_1.pth.sha256')):
        assert process.is_alive(), err.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    words = f'mmatm train {SEGMENTOR} --work-dir {tmp_path} --resume'
    assert err.read_text().strip().splitlines()[-1] == f'interrupted; go on with: {words}'


def test_classes_without_annotations_are_rejected(demo_data, options, tmp_path):
    content = json.loads((demo_data / 'coco/annotations/instances_train2017.json').read_text())
    star = next(c['id'] for c in content['categories'] if c['name'] == 'star')
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] != star]
    (tmp_path / 'no_star.json').write_text(json.dumps(content))
    printed = run(
        'tools/train.py', DETECTOR, '--work-dir', tmp_path, *options,
        f'train_dataloader.dataset.ann_file={tmp_path}/no_star.json',
        'train_dataloader.dataset.metainfo.classes=("star",)', code=1,
    )  # fmt: skip
    assert "has no usable annotation of the classes 'star'" in printed


def test_ema_weights_are_saved(seg_options, tmp_path):
    config = derive(
        SEGMENTOR, "custom_hooks = [dict(type='EMAHook', momentum=0.1)]", tmp_path / 'ema.py'
    )
    run('tools/train.py', config, '--work-dir', tmp_path, *seg_options)
    checkpoint = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    name = 'backbone.stages.2.blocks.1.mlp.fc2.weight'
    other = checkpoint['ema_state_dict'][f'module.{name}']
    assert not torch.equal(other, checkpoint['state_dict'][name])


def stock_script():
    """Mmdet's own train.py, which imports mmcv's operators before any config."""
    import mmdet

    if 'in programs that import mmatm' in status():
        pytest.skip('mmdet cannot be imported alone; run "mmatm operators install"')
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    if not script.exists():
        script = Path(mmdet.__file__).parents[1] / 'tools' / 'train.py'
    return script


def test_stock_script_of_mmdet(options, tmp_path):
    run(stock_script(), DETECTOR, '--work-dir', tmp_path, *options)
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_stock_script_checks_the_data(demo_data, options, tmp_path):
    file = tmp_path / 'broken.json'
    content = json.loads((demo_data / 'coco/annotations/instances_train2017.json').read_text())
    content['annotations'][0]['segmentation'] = []
    file.write_text(json.dumps(content))
    said = run(stock_script(), DETECTOR, '--work-dir', tmp_path, *options,
               f'train_dataloader.dataset.ann_file={file}', code=1)  # fmt: skip
    assert f'annotation {content["annotations"][0]["id"]} of {file} has no segmentation' in said


def test_auto_scale_lr(options, tmp_path):
    run('tools/train.py', DETECTOR, '--work-dir', tmp_path, '--auto-scale-lr', *options,
        'train_dataloader.batch_size=2', 'param_scheduler=[]',
        'auto_scale_lr.base_batch_size=8')  # fmt: skip
    rates = {entry['lr'] for entry in scalars(tmp_path) if 'lr' in entry}
    assert len(rates) == 1
    base = Config.fromfile(ROOT / DETECTOR).optim_wrapper.optimizer.lr
    assert rates.pop() == pytest.approx(base * 2 / 8)


@pytest.mark.parametrize('heads', [True, False])
def test_ignored_label_that_is_not_255(heads, demo_data, seg_options, tmp_path):
    """As in CamVid, where the label after the last class is ignored."""
    root = tmp_path / 'data'
    shutil.copytree(demo_data / 'ade20k', root)
    for file in root.glob('annotations/*/*.png'):
        labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(file), np.where(labels == 0, 5, labels - 1).astype(np.uint8))
    loaders = ('train', 'val', 'test')
    said = run(
        'tools/train.py', SEGMENTOR, '--work-dir', tmp_path / 'work', *seg_options,
        *(f'{s}_dataloader.dataset.data_root={root}' for s in loaders),
        *(f'{s}_dataloader.dataset.{key}' for s in loaders
          for key in ('reduce_zero_label=False', 'ignore_index=5')),
        'train_dataloader.dataset.pipeline.1.reduce_zero_label=False',
        'train_dataloader.dataset.pipeline.3.seg_pad_val=5',
        *(f'{s}_dataloader.dataset.pipeline.2.reduce_zero_label=False' for s in loaders[1:]),
        *(f'{s}_evaluator.ignore_index=5' for s in loaders[1:]),
        *(['model.decode_head.ignore_index=5'] if heads else []),
        code=0 if heads else 1,
    )  # fmt: skip
    if heads:
        assert 0 <= scalars(tmp_path / 'work')[-1]['mIoU'] <= 100
    else:
        assert 'the label map holds 5' in said
        assert 'every head ignores 255' in said


@pytest.mark.parametrize(
    ('tool', 'config', 'data'),
    [
        ('train', 'detection/mask_rcnn_atmnet_t', 'data/coco'),
        ('test', 'detection/mask_rcnn_atmnet_t', 'data/coco'),
        ('train', 'classification/atmnet_xt_in1k', 'data/imagenet/train'),
    ],
)
def test_missing_data_is_one_sentence(tool, config, data, tmp_path):
    if config.startswith('classification'):
        pytest.importorskip('mmpretrain')
    arguments = [ROOT / f'tools/{tool}.py', ROOT / f'configs/{config}.py']
    if tool == 'test':
        arguments.append('checkpoint.pth')
    printed = run(*arguments, cwd=tmp_path, code=1)
    assert len(printed.strip().splitlines()) == 1
    for part in (data, str(tmp_path), 'docs/data.md'):
        assert part in printed


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['tools/train.py', 'configs/nothing.py'], 'configs/nothing.py'),
        (['tools/test.py', DETECTOR, 'nothing.pth'], 'nothing.pth'),
        (['tools/test.py', DETECTOR, 'README.md', '--out', 'x.txt'], 'x.txt'),
        (['tools/test.py', DETECTOR, 'README.md'], 'README.md was not loaded'),
        (['tools/train.py', DETECTOR, '--auto-scale-lr', 'auto_scale_lr={}'], '--auto-scale-lr'),
        (['tools/train.py', DETECTOR, 'model.type=MaskRNN'], 'type MaskRNN,'),
        (['tools/train.py', DETECTOR, 'optim_wrapper.optimizer.type=AdamX'], 'type AdamX,'),
        (
            ['tools/train.py', DETECTOR, 'model.backbone.arch=zz', 'model.backbone.init_cfg=None'],
            "'xt'",
        ),
        (['tools/train.py', DETECTOR, 'model.backbone.archh=t'], "'archh'"),
        (['tools/train.py', DETECTOR, 'model.rpn_head.anchr=1'], "'anchr'"),
        (['tools/train.py', DETECTOR, 'train_cfg.max_epochs=-5'], 'at least 1, but is -5'),
        (['tools/train.py', DETECTOR, 'train_cfg.max_epochs=many'], 'at least 1, but is many'),
        (['tools/train.py', DETECTOR, '--auto-scale-lr', 'auto_scale_lr=None'], '--auto-scale-lr'),
        (['tools/train.py', DETECTOR, 'default_hooks.checkpoint.save_best=x'], 'infer the rule'),
        (['tools/train.py', DETECTOR, '--launcher', 'pytorch'], 'mmatm dist-train'),
        (['tools/train.py', DETECTOR, '--resume', 'WEIGHTS'], 'lacks meta'),
        (['tools/train.py', DETECTOR, 'val_cfg=None'], 'either all None or not None'),
        (['tools/train.py', DETECTOR, 'val_evaluator.metric=boxes'], 'CocoMetric a value'),
        (['tools/train.py', DETECTOR, 'log_level.x=1'], '--cfg-options: log_level'),
        (['tools/train.py', DETECTOR, 'train_dataloader.dataset.pipeline.9.x=1'], 'Index 9'),
        (['tools/test.py', DETECTOR, 'docs'], 'docs is a folder'),
        (
            [
                'tools/test.py',
                DETECTOR,
                'README.md',
                '--show-dir',
                'x',
                'default_hooks.visualization=None',
            ],
            'need default_hooks.visualization',
        ),
        (['tools/train.py', DETECTOR, 'optim_wraper.type=x'], 'did you mean optim_wrapper'),
        (['tools/train.py', DETECTOR, 'train_dataloader.batchsize=2'], "'batchsize'"),
        (['tools/test.py', DETECTOR, 'README.md', '--out', '/proc/a.pkl'], 'cannot be written'),
        (['tools/test.py', SEGMENTOR, 'README.md', '--out', 'a.pkl'], 'must be a folder'),
        (['tools/contact_sheet.py', DETECTOR, 'docs', '--out', 'a.png'], 'the .pkl file'),
        (['tools/train.py', DETECTOR, 'load_from=none.pth'], 'none.pth does not exist'),
        (
            f'tools/train.py {DETECTOR} --work-dir WEIGHTS.d --resume load_from=none.pth'.split(),
            'none.pth does not exist',
        ),
        (['tools/train.py', DETECTOR, 'optim_wrapper.optimizer.lr=-1'], 'AdamW a value'),
        (['tools/train.py', DETECTOR, 'optim_wrapper.type=AmpOptimWrapper'], 'only available'),
        (['tools/train.py', DETECTOR, 'train_dataloader.batch_size=0'], 'batch_size=0'),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, said, options, tmp_path):
    torch.save({'model': published_state_dict('xt')}, tmp_path / 'published.pth')
    extra = [a for a in arguments if '=' in a]
    arguments = [
        a.replace('WEIGHTS', f'{tmp_path}/published.pth') for a in arguments if '=' not in a
    ]
    arguments = [str(ROOT / a) if (ROOT / a).exists() else a for a in arguments]
    printed = run(*arguments, *options, *extra, code=1, cwd=tmp_path)
    assert said in printed.strip().splitlines()[-1]
    assert 'Traceback' not in printed
