"""One image and what a model predicts for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


@dataclass
class Prediction:
    """An image and what was predicted for it.

    Attributes:
        name: see :attr:`.Image.name`.
        image: ``[H, W, 3]``, BGR, uint8.
        sample: mm's data sample, on the CPU. Masks of objects are run lengths in COCO's format,
            which need little memory; logits of a segmentor are dropped.
        classes: names of the classes.
        fps: frames per second of the video that the image is from.
    """

    name: str
    image: np.ndarray
    sample: Any
    classes: tuple[str, ...]
    fps: float = 0.0
    _draw: Callable[..., np.ndarray] = field(repr=False, default=NotImplemented)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The prediction as arrays.

        - detector: ``boxes [N, 4]`` (x1, y1, x2, y2 in pixels, float32), ``scores [N]``,
          ``labels [N]``, and if it predicts masks, ``masks [N, H, W]``, bool
        - segmentor: ``label_map [H, W]``, indices of classes
        - classifier: ``scores [classes]``
        """
        if 'pred_instances' in self.sample:
            found = self.sample.pred_instances
            arrays = dict(boxes=found.bboxes, scores=found.scores, labels=found.labels)
            arrays = {name: value.numpy() for name, value in arrays.items()}
            if 'masks' in found:
                arrays['masks'] = decode(found.masks, self.image.shape)
            return arrays
        if 'pred_sem_seg' in self.sample:
            return dict(label_map=self.sample.pred_sem_seg.data[0].numpy())
        return dict(scores=self.sample.pred_score.numpy())

    def coco(self, image_id: int, category_ids: list[int]) -> tuple[list[dict], list[dict]]:
        """Results of a detector in COCO's format, as mmdet's ``CocoMetric`` writes them.

        Args:
            image_id: id of the image.
            category_ids: id of the category of each label.

        Returns:
            Boxes, and masks if the detector predicts them.
        """
        found = self.sample.pred_instances
        boxes, masks = [], []
        mask_scores = found.get('mask_scores', found.scores).tolist()
        for i, (box, score, label) in enumerate(
            zip(found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = box
            entry = dict(image_id=image_id, bbox=[x1, y1, x2 - x1, y2 - y1], score=score)
            boxes.append({**entry, 'category_id': category_ids[label]})
            if 'masks' in found:
                mask = dict(found.masks[i], counts=found.masks[i]['counts'].decode())
                entry['score'] = mask_scores[i]
                masks.append({**entry, 'category_id': category_ids[label], 'segmentation': mask})
        return boxes, masks

    def draw(self, score_thr: float = 0.3) -> np.ndarray:
        """Draw the prediction with mm's visualizer.

        Args:
            score_thr: lowest score of an object that is drawn.

        Returns:
            ``[H, W, 3]``, BGR, uint8.
        """
        return self._draw(self, score_thr)


def decode(masks: list[dict], shape: tuple[int, ...]) -> np.ndarray:
    """Decode masks of an image with this shape to ``[N, H, W]``, bool."""
    if not masks:
        return np.zeros((0, *shape[:2]), bool)
    return np.ascontiguousarray(coco_mask.decode(masks).transpose(2, 0, 1)).astype(bool)
