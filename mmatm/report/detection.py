"""What a detector found in the test set, from the matches of pycocotools."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation.metrics import CocoMetric, coco_metric
from mmengine.runner import Runner
from pycocotools import mask as coco_mask

from .counts import Counts, Levels, Sizes
from .images import encode, outline, sides
from .work_dir import ReportError

IOU = 0.5  # from which on an object counts as found
USUAL = 30  # threshold in percent that mm's tools draw from
_MOST = 300  # detections per image on the page
_LABELS = {'bbox': 'boxes', 'segm': 'masks'}


class Detection:
    """Records mmdet's COCO evaluation.

    Where the test evaluator has no ``CocoMetric``, for example with Pascal VOC, one is added on the
    dataset's own annotations.
    """

    name = 'detection'
    levels = Levels(100)

    def __init__(self, runner: Runner, max_images: int):
        evaluator, self.dataset = runner.test_evaluator, runner.test_dataloader.dataset
        if prefixes := getattr(evaluator, 'dataset_prefixes', ()):
            raise ReportError(
                f'a report shows one test set, but the test evaluator tells {len(prefixes)} apart: '
                'name one with --cfg-options'
            )
        self.max_images = max_images
        self.evaluations: list[COCOeval] = []
        self._folder = tempfile.TemporaryDirectory()
        # Its subclasses evaluate other things, or elsewhere.
        own = [m for m in evaluator.metrics if type(m) is CocoMetric and not m.format_only]
        if not own:
            own = [self._add_metric(evaluator, runner)]
        self.metric = own[0]
        self.metric.use_mp_eval = False

    def _add_metric(self, evaluator: Any, runner: Runner) -> CocoMetric:
        file = Path(self._folder.name, 'truth.json')
        with_masks = getattr(getattr(runner.model, 'roi_head', None), 'with_mask', False)
        content = _to_coco(self.dataset)
        with_masks &= all(a['segmentation'] for a in content['annotations'])
        file.write_text(json.dumps(content))
        metric = CocoMetric(
            ann_file=str(file), metric=['bbox', 'segm'] if with_masks else ['bbox'], prefix='report'
        )
        metric.dataset_meta = self.dataset.metainfo
        evaluator.metrics.append(metric)
        return metric

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the evaluations that mmdet makes meanwhile."""
        made = self.evaluations

        class Recorded(COCOeval):
            def __init__(self, *args: Any, **kwargs: Any):
                super().__init__(*args, **kwargs)
                made.append(self)

        with patch.object(coco_metric, 'COCOeval', Recorded):
            yield

    def to_page(self) -> dict[str, Any]:
        """Counts per class and kind (boxes, masks), and the best and worst images."""
        kinds = {e.params.iouType: e for e in self.evaluations if e.params.useCats}
        if not kinds:  # mmdet evaluates nothing if nothing was found
            kinds = {k: self._nothing_found(k) for k in self.metric.metrics if k in _LABELS}
        if not kinds:
            raise ReportError(
                f'the test evaluator must measure bbox or segm, but measures {self.metric.metrics}'
            )
        self.labels = {category: i for i, category in enumerate(self.metric.cat_ids)}
        self.kinds = {name: _Kind(e, self.labels, self.levels) for name, e in kinds.items()}
        first = next(iter(self.kinds.values()))
        start = first.counts.best_level(USUAL)
        truth = next(iter(kinds.values())).cocoGt
        return {
            'task': self.name,
            'levels': self.levels.count,
            'start': start,
            'iou': first.iou,
            'classes': [truth.cats[category]['name'] for category in self.labels],
            'unit': 'objects',
            'kinds': [
                {'id': name, 'name': _LABELS[name], **kind.to_page()}
                for name, kind in self.kinds.items()
            ],
            'images': self._images(first, start),
        }

    def _nothing_found(self, kind: str) -> COCOeval:
        metric, nothing = self.metric, COCO()
        truth = metric._coco_api
        nothing.dataset = {**truth.dataset, 'annotations': []}
        nothing.createIndex()
        evaluation = COCOeval(truth, nothing, kind)
        evaluation.params.catIds = metric.cat_ids
        evaluation.params.imgIds = metric.img_ids or truth.getImgIds()
        evaluation.params.maxDets = list(metric.proposal_nums)
        evaluation.params.iouThrs = metric.iou_thrs
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation

    def _images(self, kind: '_Kind', start: int) -> list[dict[str, Any]]:
        """The worst images at the threshold ``start``, worst first, then the best, best first."""
        infos = map(self.dataset.get_data_info, range(len(self.dataset)))
        paths = {info['img_id']: info['img_path'] for info in infos}
        ranks = kind.ranks(start)
        # The annotation file may have more images than the test set.
        order = sorted(ranks.keys() & paths, key=lambda image: (ranks[image], str(image)))
        worst, best = sides(order, self.max_images)
        chosen = worst + best
        files = encode([paths[image] for image in chosen])
        found, present = self._by_image(set(chosen))
        return [
            {
                'name': Path(paths[image]).name,
                'id': str(image),
                'group': 'worst' if image in worst else 'best',
                'src': src,
                'width': width,
                'height': height,
                'found': [self._found(i) for i in found[image][:_MOST]],
                'truth': [self._truth(i, width, height) for i in present[image]],
            }
            for image, (src, width, height) in zip(chosen, files, strict=True)
        ]

    def _by_image(self, images: set) -> tuple[dict, dict]:
        """Ids of the detections, highest score first, and of the objects in each image."""
        evaluation = next(iter(self.kinds.values())).evaluation
        found: dict[Any, list] = defaultdict(list)
        present: dict[Any, list] = defaultdict(list)
        for ids, coco in ((found, evaluation.cocoDt), (present, evaluation.cocoGt)):
            for i, annotation in coco.anns.items():
                if annotation['image_id'] in images and annotation['category_id'] in self.labels:
                    ids[annotation['image_id']].append(i)
        for detections in found.values():
            detections.sort(key=lambda i: -evaluation.cocoDt.anns[i]['score'])
        return found, present

    def _found(self, i: int) -> dict[str, Any]:
        """A detection; boxes and masks have the same ids, as mmdet lists both in one order."""
        annotations = {name: k.evaluation.cocoDt.anns[i] for name, k in self.kinds.items()}
        first = next(iter(annotations.values()))
        mask = annotations.get('segm')
        return {
            'label': self.labels[first['category_id']],
            'score': round(first['score'], 4),
            'box': _rounded(first['bbox']),
            'mask': outline(coco_mask.decode(mask['segmentation'])) if mask else '',
            'levels': [int(self.levels.of(a['score'])) for a in annotations.values()],
            'right': [k.outcomes.get(i, 0) for k in self.kinds.values()],
        }

    def _truth(self, i: int, width: int, height: int) -> dict[str, Any]:
        coco = next(iter(self.kinds.values())).evaluation.cocoGt
        annotation = coco.anns[i]
        has_mask = 'segm' in self.kinds and annotation.get('segmentation')
        return {
            'label': self.labels[annotation['category_id']],
            'box': _rounded(annotation['bbox']),
            'mask': outline(coco.annToMask(annotation)) if has_mask else '',
            'crowd': int(bool(annotation.get('iscrowd'))),
            'levels': [k.found_at.get(i, -1) for k in self.kinds.values()],
        }


class _Kind:
    """One evaluation: of boxes or of masks.

    Attributes:
        outcomes: 1 for a detection that is right, 0 if wrong, -1 if it does not count.
        found_at: the level up to which an object is found.
    """

    def __init__(self, evaluation: COCOeval, labels: dict[int, int], levels: Levels):
        self.evaluation, self.labels, self.levels = evaluation, labels, levels
        params = evaluation.params
        self.index = int(np.abs(np.asarray(params.iouThrs) - IOU).argmin())
        self.iou = float(params.iouThrs[self.index])
        self.counts = Counts(levels, len(labels))
        self.sizes = Sizes(levels)
        self.outcomes: dict[int, int] = {}
        self.found_at: dict[int, int] = {}
        self.of_image: dict[Any, tuple[list, list]] = {i: ([], []) for i in params.imgIds}
        for result in filter(None, evaluation.evalImgs):
            if list(result['aRng']) == list(params.areaRng[0]):
                self._add(result)
        self._add_mixed()

    def _add(self, result: dict[str, Any]) -> None:
        label, t = self.labels[result['category_id']], self.index
        found = self.levels.of(result['dtScores'])
        matched, ignored = result['dtMatches'][t] > 0, result['dtIgnore'][t].astype(bool)
        np.add.at(self.counts.right[label], found[matched & ~ignored], 1)
        np.add.at(self.counts.wrong[label], found[~matched & ~ignored], 1)
        outcomes = np.where(ignored, -1, matched)
        self.outcomes.update(zip(result['dtIds'], outcomes.tolist(), strict=True))

        objects = result['gtIgnore'] == 0
        self.counts.positives[label] += objects.sum()
        level_of = dict(zip(result['dtIds'], found.tolist(), strict=True))
        levels = [level_of.get(int(i), -1) for i in result['gtMatches'][t]]
        self.found_at.update(zip(result['gtIds'], levels, strict=True))
        areas = [self.evaluation.cocoGt.anns[i]['area'] for i in result['gtIds']]
        self.sizes.add(np.array(areas)[objects], np.array(levels, int)[objects])

        scores, totals = self.of_image[result['image_id']]
        scores += zip(found.tolist(), outcomes.tolist(), strict=True)
        totals.append(int(objects.sum()))

    def _add_mixed(self) -> None:
        """Match objects with detections of any class, best score first.

        Matches do not depend on detections of lower scores, so those at a threshold are a subset.
        """
        params, own = self.evaluation.params, self.evaluation
        any_class = COCOeval(own.cocoGt, own.cocoDt, params.iouType)
        any_class.params.catIds, any_class.params.imgIds = list(self.labels), params.imgIds
        any_class.params.maxDets = params.maxDets
        any_class.params.iouThrs = np.array([self.iou])
        any_class.params.areaRng, any_class.params.areaRngLbl = params.areaRng[:1], ['all']
        any_class.params.useCats = 0
        any_class.evaluate()
        background = len(self.labels)
        for result in filter(None, any_class.evalImgs):
            rows = zip(
                result['dtIds'],
                result['dtMatches'][0],
                result['dtIgnore'][0],
                self.levels.of(result['dtScores']),
                strict=True,
            )
            for i, match, ignored, level in rows:
                if ignored:
                    continue
                found = self.labels[own.cocoDt.anns[i]['category_id']]
                truth = background
                if match:
                    truth = self.labels[own.cocoGt.anns[int(match)]['category_id']]
                self.counts.mixed[truth, found][level] += 1

    def ranks(self, level: int) -> dict[Any, tuple[float, int]]:
        """F1 of each image at a threshold, and right less wrong and missed objects."""
        ranks = {}
        for image, (scores, totals) in self.of_image.items():
            right = sum(outcome == 1 for at, outcome in scores if at >= level)
            wrong = sum(outcome == 0 for at, outcome in scores if at >= level)
            missed = sum(totals) - right
            all_ = 2 * right + wrong + missed
            ranks[image] = (2 * right / all_ if all_ else 1.0, right - wrong - missed)
        return ranks

    def to_page(self) -> dict[str, Any]:
        """Counts, and COCO's average precisions and precision-recall curves."""
        # [IoU, recall, class, area, detections per image]; classes in the order of their ids
        precision = self.evaluation.eval['precision'][..., 0, -1]
        classes = [list(self.evaluation.params.catIds).index(c) for c in self.labels]
        precision = np.where(precision < 0, np.nan, precision)[:, :, classes]
        thresholds = np.asarray(self.evaluation.params.iouThrs)
        columns = {'AP': precision}
        for iou in (0.5, 0.75):
            if (is_it := np.isclose(thresholds, iou)).any():
                columns[f'AP{round(100 * iou)}'] = precision[is_it]
        return {
            **self.counts.to_page(),
            'iou': self.iou,
            'columns': [
                {'name': name, 'values': _means(values)} for name, values in columns.items()
            ],
            'curves': [
                [self.evaluation.params.recThrs.round(2).tolist(), curve.round(4).tolist()]
                for curve in precision[self.index].T
            ],
            'sizes': self.sizes.to_page(),
        }


def _means(values: np.ndarray) -> list[float]:
    """Means over IoUs and recalls of each class; NaN for a class without objects."""
    return [
        float(np.mean(v[~np.isnan(v)])) if (~np.isnan(v)).any() else float('nan')
        for v in np.moveaxis(values, 2, 0)
    ]


def _rounded(box: Any) -> list[float]:
    return [round(float(value), 1) for value in box]


def _to_coco(dataset: Any) -> dict[str, Any]:
    """The annotations of any dataset of mmdet, in COCO's format."""
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        images.append({'id': info['img_id'], 'width': info['width'], 'height': info['height']})
        for instance in info.get('instances', ()):
            x1, y1, x2, y2 = map(float, instance['bbox'])
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': info['img_id'],
                    'category_id': int(instance['bbox_label']),
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'area': (x2 - x1) * (y2 - y1),
                    'iscrowd': int(instance.get('ignore_flag', 0)),
                    'segmentation': instance.get('mask') or [],
                }
            )
    if not annotations:
        raise ReportError('the test set has no annotations, so there is nothing to compare with')
    names = dataset.metainfo['classes']
    categories = [{'id': i, 'name': name} for i, name in enumerate(names)]
    return {'images': images, 'annotations': annotations, 'categories': categories}
