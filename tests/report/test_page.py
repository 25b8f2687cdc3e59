"""The page in the browser, for a detector, a segmentor and a classifier with known mistakes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image

from browser import chromium, opened
from mmatm.report import images
from mmatm.report.evaluation import evaluate
from mmatm.report.facts import data_facts, training_facts
from mmatm.report.history import History
from mmatm.report.page import _commands, _history, render
from mmatm.report.work_dir import ReportError

CLASSES = ['cat', 'small </script> dog', 'bird', 'unseen']
NONE = '\u2013'
THRESHOLDS = (0, 0.3, 0.5, 0.72, 1)
SIZE = 96


@pytest.fixture(scope='module')
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope='module')
def photos(random, tmp_path_factory):
    """Files of 12 images."""
    folder = tmp_path_factory.mktemp('photos')
    files = [str(folder / f'{i:02}.png') for i in range(12)]
    for file in files:
        coarse = random.integers(60, 200, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIZE, SIZE), Image.BICUBIC).save(file)
    return files


def page_of(content, folder, history=None):
    """Write the page of a task; the file."""
    file = folder / 'report.html'
    file.write_text(render({**content, **around(), 'history': _history(history or logged())}))
    return file


def logged():
    """What a run of 600 iterations and 3 epochs logged."""
    history = History(by_epoch=True, resumed=[300], problems=['2 of 9 lines were lost'])
    history.train = {
        'loss': {50 * i: 3 / i for i in range(1, 13)},
        'loss_cls': {50 * i: 2 / i for i in range(1, 13)},
        'lr': {50 * i: 1e-3 / i for i in range(1, 13)},
    }
    history.metrics = {'coco/bbox_mAP': {1: 0.2, 2: float('nan'), 3: 0.4}, 'absent': {1: -1}}
    return history


def around():
    """What a page says of a run, apart from its results and curves."""
    return {
        'title': 'a_detector',
        'kicker': 'Detector',
        'sentence': 'evaluated.',
        'made': 'Made by the tests.',
        'colours': images.colours({}, len(CLASSES)),
        'headlines': [['box AP', 0.5]],
        'metrics': {'box AP': 0.5},
        'facts': {'Model': [['Model', 'MaskRCNN']], 'Data': [['Training set', '12 images']]},
        'speed': [['Training', '1 s']],
        'commands': [['Go on', "echo 'on & on'"]],
    }


class Dataset(list):
    """What the report uses of a dataset of mmdet."""

    get_data_info = list.__getitem__


def runner(dataset, evaluator):
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(test_evaluator=evaluator, test_dataloader=loader, model=None)


# ---------------------------------------------------------------- a detector


def objects_and_detections(random, photos):
    """Annotations in COCO's format, and detections with errors of all kinds."""
    truth, found = [], []
    for image in range(len(photos)):
        boxes, labels, scores = [], [], []
        for _ in range(int(random.integers(1, 5))):
            x, y = random.uniform(0, SIZE - 44, 2)
            width, height = random.uniform(8, 40, 2)
            label = int(random.integers(3))
            truth.append(
                dict(
                    id=len(truth) + 1, image_id=image, category_id=label + 1, iscrowd=0,
                    bbox=[x, y, width, height], area=width * height,
                    segmentation=[[x, y, x + width, y, x + width, y + height, x, y + height]],
                )
            )  # fmt: skip
            if random.random() < 0.8:
                shift = random.normal(0, 0.12, 4) * [width, height, width, height]
                boxes.append(np.array([x, y, x + width, y + height]) + shift)
                labels.append(label if random.random() < 0.8 else int(random.integers(3)))
                scores.append(round(random.uniform(0.2, 1), 2))
        for _ in range(int(random.integers(3))):
            x, y = random.uniform(0, SIZE - 30, 2)
            boxes.append(np.array([x, y, x + 25, y + 20]))
            labels.append(int(random.integers(3)))
            scores.append(round(random.uniform(0.05, 0.7), 2))
        boxes = np.array(boxes).reshape(-1, 4).clip(0, SIZE)
        masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().astype(int), strict=True):
            mask[y1:y2, x1:x2] = True
        instances = dict(
            bboxes=torch.tensor(boxes), scores=torch.tensor(scores, dtype=torch.float64),
            labels=torch.tensor(labels, dtype=torch.int64), masks=masks,
        )  # fmt: skip
        found.append(dict(img_id=image, ori_shape=(SIZE, SIZE), pred_instances=instances))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    sizes = [dict(id=i, width=SIZE, height=SIZE) for i in range(len(photos))]
    return dict(images=sizes, annotations=truth, categories=categories), found


@pytest.fixture(scope='module')
def detector(random, photos, tmp_path_factory):
    """Ground truth, detections, mmdet's metrics and the content of the page."""
    pytest.importorskip('mmdet')
    from mmdet.evaluation import CocoMetric
    from mmengine.evaluator import Evaluator

    from mmatm.report.detection import Detection

    folder = tmp_path_factory.mktemp('detector')
    truth, found = objects_and_detections(random, photos)
    (folder / 'truth.json').write_text(json.dumps(truth))
    metric = CocoMetric(ann_file=str(folder / 'truth.json'), metric=['bbox', 'segm'])
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dict(classes=CLASSES)
    infos = [dict(img_id=i, img_path=file) for i, file in enumerate(photos)]
    task = Detection(runner(Dataset(infos), evaluator), 8)
    with task.recording():
        evaluator.process(found)
        metrics = evaluator.evaluate(len(photos))
    content = json.loads(json.dumps(task.to_page()))
    return truth, found, metrics, content, page_of(content, folder)


def overlap(box, other, kind):
    """IoU of two boxes x1, y1, x2, y2; masks cover whole pixels."""
    if kind == 'masks':
        box, other = np.round(box), np.round(other)
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    both = np.prod(np.clip(high - low, 0, None))
    return both / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - both)


def corners(box):
    x, y, width, height = box
    return np.array([x, y, x + width, y + height])


def expected(truth, found, threshold, kind):
    """Right, wrong and missed detections: the definition, for one threshold."""
    right = wrong = 0
    for sample in found:
        instances = sample['pred_instances']
        objects = [
            (a['category_id'] - 1, corners(a['bbox']))
            for a in truth['annotations']
            if a['image_id'] == sample['img_id']
        ]
        order = np.argsort(-instances['scores'].numpy(), kind='stable')
        for i in order[instances['scores'].numpy()[order] >= threshold]:
            label, box = int(instances['labels'][i]), instances['bboxes'][i].numpy()
            ious = [overlap(box, b, kind) if at == label else 0 for at, b in objects]
            if max(ious, default=0) >= 0.5:
                right += 1
                objects.pop(int(np.argmax(ious)))
            else:
                wrong += 1
    return right, wrong, len(truth['annotations']) - right


def test_detector_has_the_metrics_of_mmdet(detector):
    _, _, metrics, content, _ = detector
    for kind in content['kinds']:
        for column in kind['columns']:
            values = [value for value in column['values'] if value == value]
            name = {'AP': 'mAP', 'AP50': 'mAP_50', 'AP75': 'mAP_75'}[column['name']]
            assert len(values) == 3  # one class is not in the test set
            assert np.mean(values) == pytest.approx(
                metrics[f'coco/{kind["id"]}_{name}'], abs=5.01e-4
            )
            assert 0 < np.mean(values) < 1


def number(page, name):
    return float(page.locator(f'#{name}').inner_text().replace(',', ''))


def threshold_to(page, value, levels=100):
    page.locator('#threshold').evaluate(
        '(e, v) => { e.value = v; e.dispatchEvent(new Event("input")); }', round(levels * value)
    )
    page.evaluate('() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))')


def wait_until(page, condition):
    """Wait for a condition in JavaScript; playwright's own wait is against the page's policy."""
    for _ in range(500):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(10)
    raise AssertionError(condition)


def shown(page, selector):
    """Number of elements in the cards that are not hidden."""
    return page.evaluate(
        """(selector) => [...document.querySelectorAll('.shot')].filter((c) => !c.hidden)
            .flatMap((c) => [...c.querySelectorAll(selector)])
            .filter((e) => !e.closest('[hidden]')).length""",
        selector,
    )


FOUND = '.pane:first-child'


@chromium
def test_threshold_moves_boxes_and_numbers(detector):
    truth, found, _, content, file = detector
    images_shown = {int(image['id']) for image in content['images']}
    assert len(images_shown) == 8
    with opened(file) as page:
        page.get_by_role('radio', name='Both').check()
        for kind in ('boxes', 'masks'):
            page.get_by_role('radio', name=kind).check()
            for threshold in THRESHOLDS:
                threshold_to(page, threshold)
                right, wrong, missed = expected(truth, found, threshold, kind)
                if right + wrong:
                    assert number(page, 'precision') == pytest.approx(
                        right / (right + wrong), abs=6e-4
                    )
                else:
                    assert page.locator('#precision').inner_text() == NONE
                assert number(page, 'recall') == pytest.approx(right / (right + missed), abs=6e-4)
                drawn = sum(
                    int((sample['pred_instances']['scores'] >= threshold).sum())
                    for sample in found
                    if sample['img_id'] in images_shown
                )
                assert number(page, 'drawn') == drawn
                assert shown(page, f'{FOUND} svg g') == drawn
                assert shown(page, f'{FOUND} .tag') == drawn
                # The other parts agree: objects by size, and the matrix holds every detection.
                counts = page.locator('.sizes li > span:last-child').all_inner_texts()
                counts = [[int(n) for n in text.split(' of ')] for text in counts]
                assert sum(n for n, _ in counts) == right
                assert sum(n for _, n in counts) == len(truth['annotations'])
                cells = page.evaluate(
                    """() => [...document.querySelectorAll('.confusion tbody tr')].map(
                        (row) => [...row.querySelectorAll('td')].map((c) => +c.textContent || 0))"""
                )
                detections = sum((s['pred_instances']['scores'] >= threshold).sum() for s in found)
                missing = len(page.locator('.confusion thead th').all()) == 6
                assert sum(map(sum, cells)) - missing * sum(r[4] for r in cells) == detections
                assert sum(map(sum, cells[:4])) == len(truth['annotations'])


@chromium
def test_switches_do_what_they_say(detector):
    content, file = detector[3:]
    with opened(file) as page:
        first = shown(page, '.open')
        assert first == 4  # the worst half
        threshold_to(page, 0.3)
        masks = shown(page, '.mask')
        assert shown(page, '.shape') == shown(page, '.tag') == masks > 0
        page.get_by_label('Masks', exact=True).uncheck()
        assert (shown(page, '.mask'), shown(page, '.shape')) == (0, masks)
        page.get_by_label('Boxes', exact=True).uncheck()
        assert (shown(page, '.shape'), shown(page, '.tag')) == (0, masks)
        page.get_by_label('Labels', exact=True).uncheck()
        assert shown(page, '.tag') == 0
        page.get_by_label('Boxes', exact=True).check()
        dashed = shown(page, '.shape.off')
        assert 0 < dashed < masks
        page.get_by_label('Mistakes only').check()
        assert shown(page, '.shape') == dashed
        page.get_by_label('Mistakes only').uncheck()
        page.get_by_label('Show').select_option('bird')
        worst = [image for image in content['images'] if image['group'] == 'worst']
        birds = sum(o['label'] == 2 and o['levels'][0] >= 30 for i in worst for o in i['found'])
        assert shown(page, f'{FOUND} .shape') == birds == number(page, 'drawn')
        # Classes are sorted by what is clicked, and named literally.
        table = page.locator('#classes')
        assert CLASSES[1] in table.inner_text()
        table.get_by_role('button', name='AP50', exact=True).click()
        values = [float(t) for t in table.locator('tbody td:nth-child(4)').all_inner_texts()[:3]]
        assert values == sorted(values, reverse=True)
        assert table.locator('[aria-sort]').get_attribute('aria-sort') == 'descending'
        # Curves are switched on and off.
        loss = page.locator('.panel', has_text='Loss')
        assert loss.locator('.curve').count() == 1
        loss.get_by_role('button', name='loss_cls').click()
        assert loss.locator('.curve').count() == 2
        assert loss.locator('.mark').count() == 1
        assert '2 of 9 lines were lost' in page.locator('#summary').inner_text()
        light = page.evaluate('getComputedStyle(document.body).backgroundColor')
        page.locator('#theme').click()
        assert page.evaluate('getComputedStyle(document.body).backgroundColor') != light


@chromium
def test_keyboard_is_enough(detector):
    content, file = detector[3:]
    with opened(file) as page:
        page.keyboard.press('Tab')
        assert page.evaluate('document.activeElement.textContent') == 'Skip to the results'
        page.locator('#threshold').focus()
        before = number(page, 'drawn')
        for key in ('Home', 'End', 'Home', 'ArrowRight'):
            page.keyboard.press(key)
        wait_until(page, 'document.querySelector(".slider output").textContent === "0.01"')
        assert page.locator('#threshold').get_attribute('aria-valuetext') == '0.01'
        assert number(page, 'drawn') >= before
        button = page.get_by_role('button', name=f'Enlarge {content["images"][0]["name"]}')
        button.focus()
        page.keyboard.press('Enter')
        title = page.locator('dialog .head b')
        assert title.inner_text() == content['images'][0]['name']
        page.keyboard.press('ArrowRight')
        assert title.inner_text() == content['images'][1]['name']
        page.keyboard.press('ArrowLeft')
        # The enlarged image has the switches and the threshold too.
        slider = page.locator('dialog').get_by_label('Score threshold')
        slider.focus()
        page.keyboard.press('Home')
        wait_until(page, 'document.querySelector("#threshold").value === "0"')
        assert title.inner_text() == content['images'][0]['name']
        boxes = 'svg g:not([hidden])'
        assert page.locator(f'dialog {FOUND} {boxes}').count() == len(content['images'][0]['found'])
        page.locator('dialog').get_by_label('Boxes').uncheck()
        assert page.locator(f'dialog {boxes}').count() == 0
        assert not page.locator('#images > .tools').get_by_label('Boxes').is_checked()
        page.keyboard.press('Escape')
        assert not page.locator('dialog').is_visible()
        assert button.evaluate('(e) => e === document.activeElement')
        chart = page.locator('.panel', has_text='Validation').locator('svg')
        chart.focus()
        page.keyboard.press('End')
        readout = page.locator('.panel', has_text='Validation').locator('.readout')
        assert readout.inner_text() == 'epoch 3: coco/bbox_mAP 0.4'
        page.keyboard.press('ArrowLeft')
        assert readout.inner_text() == 'epoch 2: coco/bbox_mAP \u2013'


@chromium
@pytest.mark.parametrize('task', ['detector', 'segmentor', 'classifier'])
def test_phone_and_print(task, request):
    file = request.getfixturevalue(task)[-1]
    with opened(file, width=390, height=844) as page:
        wide = 'document.scrollingElement.scrollWidth'
        assert page.evaluate(wide) <= 390
        page.locator('.open').first.click()
        assert page.evaluate('document.querySelector("dialog").scrollWidth') <= 390
        page.keyboard.press('Escape')
        page.emulate_media(media='print')
        assert not page.locator('#images > .tools').is_visible()
        assert not page.locator('#threshold').is_visible()
        assert page.locator('#recall').is_visible()
        assert (
            page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
        )
        assert page.pdf()[:5] == b'%PDF-'


def test_nothing_found_is_a_page_too(photos, tmp_path):
    pytest.importorskip('mmdet')
    from mmdet.evaluation import CocoMetric
    from mmengine.evaluator import Evaluator

    from mmatm.report.detection import Detection

    truth, found = objects_and_detections(np.random.default_rng(1), photos)
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    evaluator = Evaluator(CocoMetric(ann_file=str(tmp_path / 'truth.json')))
    evaluator.dataset_meta = dict(classes=CLASSES)
    infos = [dict(img_id=i, img_path=file) for i, file in enumerate(photos[3:6], 3)]
    task = Detection(runner(Dataset(infos), evaluator), 2)
    for sample in found:
        for name, value in sample['pred_instances'].items():
            sample['pred_instances'][name] = value[:0]
    with task.recording():
        evaluator.process(found)
        evaluator.evaluate(len(found))
    content = task.to_page()
    assert content['start'] == 30
    assert sum(content['kinds'][0]['positives']) == len(truth['annotations'])
    assert not np.sum(content['kinds'][0]['right']) + np.sum(content['kinds'][0]['wrong'])
    assert len(content['images']) == 2
    assert {image['id'] for image in content['images']} < {'3', '4', '5'}  # of the test set


def test_other_metrics_get_those_of_coco_added(detector, photos):
    from mmengine.evaluator import Evaluator

    from mmatm.report.detection import Detection

    truth, found, metrics, content, _ = detector
    infos = [
        dict(img_id=f'image {i:02}', img_path=file, width=SIZE, height=SIZE, instances=[])
        for i, file in enumerate(photos)
    ]
    for a in truth['annotations']:
        instance = dict(bbox=corners(a['bbox']).tolist(), bbox_label=a['category_id'] - 1)
        infos[a['image_id']]['instances'].append(instance)
    dataset = Dataset(infos)
    dataset.metainfo = dict(classes=CLASSES)
    evaluator = Evaluator([])
    task = Detection(runner(dataset, evaluator), 8)
    with task.recording():
        evaluator.process([dict(s, img_id=f'image {s["img_id"]:02}') for s in found])
        measured = evaluator.evaluate(len(found))
    assert measured['report/bbox_mAP'] == metrics['coco/bbox_mAP']
    (kind,) = task.to_page()['kinds']
    assert kind['right'] == content['kinds'][0]['right']
    assert kind['mixed'] == content['kinds'][0]['mixed']


def test_what_a_report_cannot_show(photos):
    for package in ('mmdet', 'mmseg'):
        pytest.importorskip(package)
    from mmatm.report.classification import Classification
    from mmatm.report.detection import Detection
    from mmatm.report.segmentation import Segmentation

    infos = Dataset([dict(img_id=0, img_path=photos[0], width=SIZE, height=SIZE)])
    plain = SimpleNamespace(metrics=[], dataset_meta=dict(classes=CLASSES))
    several = SimpleNamespace(dataset_prefixes=['day', 'night'])
    sample = dict(pred_score=torch.ones(4))
    for said, call in {
        'no annotations': lambda: Detection(runner(infos, plain), 2),
        'tells 2 apart': lambda: Detection(runner(infos, several), 2),
        'one label per': lambda: Classification(runner(infos, plain), 2).process({}, [sample]),
        'no label maps': lambda: Segmentation(runner(infos, plain), 2).process({}, [sample]),
        'no test_dataloader': lambda: evaluate(Config(dict(default_scope='mmdet')), 'x.pth', 2),
        "but has 'x'": lambda: evaluate(Config(dict(default_scope='x')), 'x.pth', 2),
    }.items():
        with pytest.raises(ReportError, match=said):
            call()


# ---------------------------------------------------------------- a segmentor and a classifier


@pytest.fixture(scope='module')
def segmentor(random, photos, tmp_path_factory):
    """Label maps, logits and the content of the page."""
    pytest.importorskip('mmseg')
    from mmengine.evaluator import Evaluator
    from mmseg.evaluation import IoUMetric

    from mmatm.report.segmentation import Segmentation

    evaluator = Evaluator(IoUMetric())
    evaluator.dataset_meta = dict(classes=CLASSES)
    task = Segmentation(runner([None] * len(photos), evaluator), 6)
    samples = []
    for file in photos:
        coarse = random.integers(0, 3, (4, 4))
        truth = np.kron(coarse, np.ones((SIZE // 4, SIZE // 4), int))
        truth[:5] = 255
        blurred = np.eye(4)[np.where(truth == 255, 0, truth)] * 2
        logits = torch.tensor(blurred + random.normal(0, 1, blurred.shape)).permute(2, 0, 1)
        samples.append(
            dict(
                gt_sem_seg=dict(data=torch.tensor(truth)[None]), img_path=file,
                seg_logits=dict(data=logits), pred_sem_seg=dict(data=logits.argmax(0)[None]),
            )
        )  # fmt: skip
    evaluator.process(samples)
    metrics = evaluator.evaluate(len(photos))
    content = task.to_page()
    return samples, metrics, content, page_of(content, tmp_path_factory.mktemp('segmentor'))


def test_segmentor_has_the_metrics_of_mmseg(segmentor):
    samples, metrics, content, _ = segmentor
    (kind,) = content['kinds']
    for column in kind['columns']:
        assert 100 * np.nanmean(column['values']) == pytest.approx(
            metrics[f'm{column["name"]}'], abs=6e-3
        )
    assert sum(kind['positives']) == len(samples) * SIZE * (SIZE - 5)


@chromium
@pytest.mark.parametrize('threshold', [0, 0.6, 0.95])
def test_threshold_of_a_segmentor(segmentor, threshold):
    samples, _, content, file = segmentor
    right = wrong = everything = 0
    shares = {}
    for sample in samples:
        confidence = sample['seg_logits']['data'].softmax(0).amax(0).float()
        truth, found = sample['gt_sem_seg']['data'][0], sample['pred_sem_seg']['data'][0]
        sure, valid = confidence >= threshold, truth != 255
        right += int((sure & valid & (found == truth)).sum())
        wrong += int((sure & valid & (found != truth)).sum())
        everything += int(valid.sum())
        shares[sample['img_path']] = float(sure.float().mean())
    with opened(file) as page:
        wait_until(page, "document.querySelector('.shot canvas').width > 1")
        threshold_to(page, threshold, levels=20)
        assert number(page, 'precision') == pytest.approx(right / (right + wrong), abs=6e-4)
        assert number(page, 'recall') == pytest.approx(right / everything, abs=6e-4)
        # What is painted: pixels of the first image's canvas that are not transparent.
        painted = page.evaluate(
            """() => { const c = document.querySelector('.shot canvas');
                const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0;
                return n / (c.width * c.height); }"""
        )
        assert painted == pytest.approx(shares[content['images'][0]['id']], abs=1e-6)
        page.get_by_label('Classes', exact=True).uncheck()
        assert not page.locator('.shot canvas').first.is_visible()


@pytest.fixture(scope='module')
def classifier(random, photos, tmp_path_factory):
    """Scores, labels and the content of the page."""
    from mmengine.evaluator import Evaluator

    from mmatm.report.classification import Classification

    evaluator = Evaluator([])
    evaluator.dataset_meta = dict(classes=CLASSES)
    task = Classification(runner([None] * len(photos), evaluator), 6)
    truth = torch.tensor(random.integers(0, 3, len(photos)))
    logits = torch.tensor(random.normal(0, 1.5, (len(photos), 4))) + 2 * torch.eye(4)[truth]
    scores = logits.softmax(1)
    samples = [
        dict(gt_label=label[None], pred_score=score, img_path=file)
        for label, score, file in zip(truth, scores, photos, strict=True)
    ]
    evaluator.process(samples)
    content = task.to_page()
    return truth, scores, content, page_of(content, tmp_path_factory.mktemp('classifier'))


@chromium
def test_threshold_of_a_classifier(classifier):
    truth, scores, content, file = classifier
    best, found = scores.float().max(1)
    worst = content['images'][0]
    assert worst['guesses'][0][0] != worst['truth']
    with opened(file) as page:
        for threshold in (0, 0.6, 0.8):
            threshold_to(page, threshold)
            sure = best >= threshold
            right = int((sure & (found == truth)).sum())
            assert number(page, 'precision') == pytest.approx(right / int(sure.sum()), abs=6e-4)
            assert number(page, 'recall') == pytest.approx(right / len(truth), abs=6e-4)
            first = page.locator('.shot .what').first.inner_text()
            assert ('not sure' in first) == (worst['guesses'][0][1] < threshold)


@chromium
def test_page_without_logs_and_images_shows_the_rest(classifier, tmp_path):
    content = {**classifier[2], 'images': []}
    with opened(page_of(content, tmp_path, History(problems=['the logs are gone']))) as page:
        assert 'the logs are gone' in page.locator('#training').inner_text()
        assert page.locator('#training svg').count() == 0
        assert page.locator('#classes tbody tr').count() == len(CLASSES)


def test_model_with_more_classes_than_the_test_set(photos):
    """As a model of ImageNet on some of its classes. One that has diverged predicts no numbers."""
    pytest.importorskip('mmseg')
    from mmengine.evaluator import Evaluator
    from mmseg.evaluation import IoUMetric

    from mmatm.report.classification import Classification
    from mmatm.report.segmentation import Segmentation

    evaluator = Evaluator(IoUMetric())
    evaluator.dataset_meta = dict(classes=CLASSES[:2])
    task = Classification(runner([], Evaluator([])), 2)
    scores = torch.tensor([[0.0, 0.1, 0.9], [float('nan')] * 3])
    task.dataset_meta = evaluator.dataset_meta
    task.process(
        {}, [dict(gt_label=torch.tensor([1]), pred_score=s, img_path=photos[0]) for s in scores]
    )
    content = task.to_page()
    assert content['classes'] == [*CLASSES[:2], '2']
    wrong = content['kinds'][0]['wrong']
    assert [wrong[2][80], wrong[0][0], wrong[0][1]] == [1, 1, 0]

    task = Segmentation(runner([], evaluator), 2)
    truth = torch.tensor([[0] * 4 + [1] * 6 + [255] * 2] * 10)
    found = torch.tensor([[0] * 2 + [2] * 4 + [1] * 6] * 10)
    logits = torch.eye(3)[found].permute(2, 0, 1)
    sample = dict(gt_sem_seg=dict(data=truth[None]), pred_sem_seg=dict(data=found[None]))
    evaluator.process([dict(sample, seg_logits=dict(data=logits), img_path=photos[0])])
    metrics = evaluator.evaluate(1)
    content = task.to_page()
    (kind,) = content['kinds']
    assert kind['positives'] == [40, 60]
    assert 100 * np.mean(kind['columns'][0]['values']) == pytest.approx(metrics['mIoU'], abs=6e-3)
    assert content['images'][0]['present'] == [0, 1]


# ---------------------------------------------------------------- facts


DATASETS.register_module('Listed', module=BaseDataset)


@DATASETS.register_module()
class Unreadable:
    """Asserts without a message, as mmseg's PascalVOCDataset."""

    def __init__(self):
        raise AssertionError


def test_training_set_in_wrappers_or_moved(tmp_path):
    file = tmp_path / 'list.json'
    file.write_text(json.dumps(dict(metainfo={}, data_list=[dict(img_path='a')] * 2)))

    def training_set(**dataset):
        cfg = Config(
            dict(default_scope='mmengine', train_dataloader=dict(dataset=dataset),
                 test_dataloader=dict(dataset=dict(data_root='images')))
        )  # fmt: skip
        content = dict(kinds=[dict(positives=[1])], unit='pixels', classes=['a'])
        return dict(data_facts(cfg, SimpleNamespace(content=content, num_images=3)))['Training set']

    inner = dict(type='RepeatDataset', times=3, dataset=dict(type='Listed', ann_file=str(file)))
    assert training_set(type='ConcatDataset', datasets=[inner, inner]) == f'4 images ({file})'
    assert training_set() == 'not in the config'
    assert training_set(type='Unreadable') == 'cannot be read again (AssertionError)'
    file.unlink()
    assert training_set(**inner).startswith('cannot be read again (FileNotFoundError: ')


def test_resumed_run_started_where_its_first_part_did(tmp_path):
    (tmp_path / 'vis_data').mkdir()
    (tmp_path / 'vis_data' / 'config.py').write_text("model = {}\nload_from = 'first.pth'\n")
    cfg = Config(dict(model={}, resume=True, load_from=None, default_scope='mmpretrain'))
    evaluation = SimpleNamespace(meta=dict(epoch=2, iter=9, seed=3, time='today'))
    history = History(runs=[tmp_path, tmp_path / 'second'], by_epoch=True)
    facts = dict(training_facts(cfg, history, evaluation, 'x.pth', 3700))
    assert facts['Started from'] == 'all weights from first.pth'
    assert facts['Training time'] == '1 h 1 min in 2 runs'
    assert facts['Checkpoint'] == 'x.pth (epoch 2, iteration 9)'
    assert facts['Saved'] == 'today'
    commands = dict(_commands(cfg, tmp_path, tmp_path / 'a.py', 'x.pth'))
    assert commands['Train on from these weights'].endswith(' load_from=x.pth resume=False')
