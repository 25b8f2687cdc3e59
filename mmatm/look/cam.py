"""Class activation maps by pytorch-grad-cam, as one more layer of the page."""

from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from .capture import LookError, find_trunk
from .running import NOTHING, TOP, Look, MMModel, Prediction, TimmModel


def activation_maps(model: MMModel | TimmModel, batch: Any, look: Look) -> dict[str, np.ndarray]:
    """Grad-CAM of the backbone's last stage, for the classes that were found.

    What is differentiated is the evidence for a class: a classifier's score, the mean of a
    segmentor's logits over the pixels of the class, or the sum of the scores of a detector's
    objects of the class.

    Args:
        model: the model.
        batch: what its ``prepare`` made of the image.
        look: what it predicted. The classes with the highest scores, or the most pixels, are
            explained, five at most.

    Returns:
        Class names to maps from 0 to 1, ``[H, W]`` of the image.

    Raises:
        LookError: the model found nothing, or cannot be differentiated.

    Source: *Grad-CAM* (arXiv 1610.02391).
    """
    found = look.prediction
    classes = _classes(found)
    if not classes:
        raise LookError('--cam explains the classes that were found, but the model found none')
    layer = find_trunk(model.module).stages[-1]
    # The model runs on its own batch; this tells grad-cam the size of the maps.
    image = torch.zeros(1, 3, *look.pixels.shape[:2])
    with GradCAM(_Evidence(model, batch, found), [layer], _channels_first) as cam:
        try:
            maps = {k: cam(image, [ClassifierOutputTarget(k)])[0] for k in classes}
        except (AttributeError, RuntimeError) as error:
            reason = str(error).split('\n')[0]
            raise LookError(f'--cam cannot differentiate what was found: {reason}') from None
    return {found.names[label]: values for label, values in maps.items()}


def _classes(found: Prediction) -> list[int]:
    if found.labels is not None:
        labels, counts = np.unique(found.labels[found.labels != NOTHING], return_counts=True)
        return labels[counts.argsort()[::-1]][:TOP].tolist()
    return list(dict.fromkeys(item['label'] for item in found.items))[:TOP]


def _channels_first(tokens: Tensor) -> Tensor:
    return tokens.permute(0, 3, 1, 2)


class _Evidence(nn.Module):
    """The evidence for each class, ``[1, classes]``, that a model finds in one image."""

    def __init__(self, model: MMModel | TimmModel, batch: Any, found: Prediction):
        super().__init__()
        self.module = model.module  # whose device grad-cam asks for
        self.run, self.batch, self.found = model.run, batch, found

    def forward(self, image: Tensor) -> Tensor:
        """Run the model on its batch; ``image`` is not used."""
        result = self.run(self.batch)
        if isinstance(result, Tensor):  # of timm
            return result.unsqueeze(0)
        if self.found.kind == 'classes':
            return result.pred_score.log().unsqueeze(0)
        if self.found.kind == 'instances':
            instances = result.pred_instances
            evidence = instances.scores.new_zeros(len(self.found.names))
            return evidence.index_add(0, instances.labels, instances.scores).unsqueeze(0)
        logits, labels = result.seg_logits.data, result.pred_sem_seg.data[0]
        pixels = torch.stack([labels == label for label in range(len(logits))])
        means = (logits * pixels).sum((1, 2)) / pixels.sum((1, 2)).clamp(min=1)
        return means.unsqueeze(0)
