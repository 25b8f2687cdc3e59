"""Predict on images of extreme shapes in a process of its own:
python predict_extreme.py CONFIG {model,backbone}

Prints JSON per batch: the number of images, height and width; by how many bytes the peak memory of
the process exceeds that before the first batch; and the predictions.
"""

import json
import resource
import sys

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmatm  # noqa: F401  registers ATMNet

BATCHES = ((1, 32, 32), (1, 31, 4096), (1, 4096, 31), (64, 32, 32))


def peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(config: str, part: str) -> None:
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    if cfg.default_scope == 'mmdet':
        from mmdet.registry import MODELS
        from mmdet.structures import DetDataSample as Sample

        cfg.model.test_cfg.rcnn.score_thr = 0.0  # so that an untrained model finds something
    else:
        from mmseg.registry import MODELS
        from mmseg.structures import SegDataSample as Sample
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()

    def predict(count: int, height: int, width: int) -> list[dict]:
        size = (height, width)
        metainfo = dict(ori_shape=size, img_shape=size, scale_factor=(1.0, 1.0), img_id=0)
        images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8)
        if part == 'backbone':
            with torch.no_grad():
                levels = model.backbone(images.float())
            return [dict(shape=list(x.shape), finite=bool(x.isfinite().all())) for x in levels]
        samples = [Sample(metainfo=metainfo) for _ in images]
        return [
            describe(sample)
            for sample in model.test_step(dict(inputs=list(images), data_samples=samples))
        ]

    def describe(sample: Sample) -> dict:
        if cfg.default_scope == 'mmseg':
            logits, labels = sample.seg_logits.data, sample.pred_sem_seg.data
            return dict(shape=list(labels.shape[1:]), finite=bool(logits.isfinite().all()))
        found = sample.pred_instances
        return dict(
            shape=list(found.masks.shape[1:]),
            count=len(found),
            finite=bool(found.bboxes.isfinite().all() and found.scores.isfinite().all()),
        )

    predict(1, 64, 64)  # what is allocated once
    start = peak()
    for batch in BATCHES:
        predictions = predict(*batch)
        print(json.dumps(dict(batch=batch, memory=peak() - start, predictions=predictions)))


if __name__ == '__main__':
    main(*sys.argv[1:])
