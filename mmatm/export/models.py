"""Models with one plain ``forward``, from an image to what was found in it.

mm's own functions of the same purpose build objects and decide in Python, which no exporter
follows. These here are held against them by :mod:`mmatm.export.verify`, for every file.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from . import ExportError

Axes = dict[str, dict[int, str]]


class Deployed(nn.Module):
    """What all have in common: the preparation of the image.

    Args:
        model: a classifier, detector or segmentor of mm.
    """

    kind: str
    inputs: tuple[str, ...] = ('image', 'size')
    outputs: tuple[str, ...]
    axes: ClassVar[Axes] = {'image': {2: 'height', 3: 'width'}}
    cfg: Any = None  # of a detector: its test_cfg
    mean: Tensor
    std: Tensor
    score_threshold: Tensor

    def __init__(self, model: Any):
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)
        pre = model.data_preprocessor
        self.reversed = not getattr(pre, 'to_rgb', getattr(pre, '_channel_conversion', False))
        # Those of mmpretrain have them as empty buffers, or not at all.
        normalised = getattr(pre, '_enable_normalize', False)
        self.register_buffer('mean', pre.mean.clone() if normalised else torch.zeros(3, 1, 1))
        self.register_buffer('std', pre.std.clone() if normalised else torch.ones(3, 1, 1))
        self.divisor = getattr(pre, 'pad_size_divisor', 1)
        self.pad_value = getattr(pre, 'pad_value', 0)
        if getattr(pre, 'test_cfg', None):
            raise ExportError(
                f"the data preprocessor's test_cfg pads images ({pre.test_cfg}), which is not "
                'exported: set model.data_preprocessor.test_cfg=None'
            )

    def prepare(self, image: Tensor) -> Tensor:
        """RGB ``[B, 3, H, W]`` in 0 to 255 to what the backbone expects, padded below and right."""
        x = image.float()
        if self.reversed:
            x = x[:, [2, 1, 0]]
        x = (x - self.mean) / self.std
        if self.divisor > 1:
            below, right = (-side % self.divisor for side in x.shape[2:])
            x = F.pad(x, (0, right, 0, below), value=self.pad_value)
        return x


class Classifier(Deployed):
    """``image [B, 3, H, W]`` to ``scores [B, classes]``, which add up to 1."""

    kind = 'classifier'
    inputs = ('image',)
    outputs = ('scores',)
    axes: ClassVar[Axes] = {'image': {0: 'batch', 2: 'height', 3: 'width'}, 'scores': {0: 'batch'}}

    def __init__(self, model: Any):
        super().__init__(model)
        _require(model, 'head', 'LinearClsHead')

    def forward(self, image: Tensor) -> Tensor:
        return self.model(self.prepare(image), mode='tensor').softmax(-1)


class Segmentor(Deployed):
    """``image [B, 3, H, W]`` and ``size``, the height and width of the original images, to classes.

    ``labels [B, *size]`` are the indices of the most probable classes; ``logits`` the map they come
    from, ``[B, classes, H / 4, W / 4]``.
    """

    kind = 'segmentor'
    outputs = ('labels', 'logits')
    axes: ClassVar[Axes] = {
        'image': {0: 'batch', 2: 'height', 3: 'width'},
        'labels': {0: 'batch', 1: 'original_height', 2: 'original_width'},
        'logits': {0: 'batch', 2: 'map_height', 3: 'map_width'},
    }

    def __init__(self, model: Any):
        _require(model, 'decode_head', 'UPerHead', 'FPNHead')
        super().__init__(model)
        if model.test_cfg.get('mode', 'whole') != 'whole':
            raise ExportError(
                f'segmentors are exported for whole images, but test_cfg.mode is '
                f'{model.test_cfg.mode!r}: set model.test_cfg.mode=whole'
            )
        if model.decode_head.out_channels < 2:
            raise ExportError('segmentors are exported for two or more classes, but this has one')

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model.decode_head(self.model.extract_feat(self.prepare(image)))
        resized = logits
        targets: Any = (image.shape[2:], (size[0], size[1]))
        for target in targets:
            resized = F.interpolate(
                resized, target, mode='bilinear', align_corners=self.model.align_corners
            )
        return resized.argmax(1), logits


class Detector(Deployed):
    """``image [1, 3, H, W]`` and ``size``, the height and width of the original image, to objects.

    ``boxes [N, 4]`` are corners x, y, x, y in pixels of the original image, sorted by ``scores
    [N]``; ``labels [N]`` are indices of classes.
    """

    kind = 'detector'
    outputs: tuple[str, ...] = ('boxes', 'scores', 'labels')
    axes: ClassVar[Axes] = {
        'image': {2: 'height', 3: 'width'},
        **{name: {0: 'objects'} for name in ('boxes', 'scores', 'labels', 'masks')},
    }

    def __init__(self, model: Any, cfg: Any):
        super().__init__(model)
        # An initializer of its own name, so that a program can set another.
        self.register_buffer('score_threshold', torch.tensor(float(cfg.score_thr)))
        self.cfg = cfg
        _check_nms(cfg.nms)
        for coder in (m.bbox_coder for m in model.modules() if hasattr(m, 'bbox_coder')):
            if type(coder).__name__ != 'DeltaXYWHBBoxCoder' or coder.add_ctr_clamp:
                raise ExportError(f'boxes of {type(coder).__name__} are not exported')

    def scale(self, image: Tensor, size: Tensor) -> Tensor:
        """What boxes of the image are multiplied by to be those of the original, ``[4]``."""
        height, width = (_number(s) for s in image.shape[2:])
        scale = torch.stack([size[1] / width, size[0] / height])
        return scale.float().repeat(2)


class RetinaNet(Detector):
    """RetinaNet."""

    def __init__(self, model: Any):
        _require(model, 'bbox_head', 'RetinaHead')
        super().__init__(model, model.bbox_head.test_cfg)
        if not model.bbox_head.use_sigmoid_cls:
            raise ExportError('RetinaNet is exported with sigmoid scores, but this has softmax')

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        head, cfg = self.model.bbox_head, self.cfg
        found: list[tuple[Tensor, ...]] = []
        maps = head(self.model.extract_feat(self.prepare(image)))
        for scores, deltas, priors in _levels(head, *maps):
            classes = int(scores.shape[1])
            scores, index = _top(scores.flatten(), cfg.get('nms_pre', -1))
            place = index // classes
            boxes = decode(head.bbox_coder, priors[place], deltas[place], image)
            found.append((boxes, scores, index % classes))
        boxes, scores, labels = (torch.cat(values) for values in zip(*found, strict=True))
        boxes = boxes * self.scale(image, size)
        kept = (scores > self.score_threshold) & _large(boxes, cfg)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        kept = separate_nms(boxes, scores, labels, cfg.nms)[: cfg.max_per_img]
        return boxes[kept], scores[kept], labels[kept]


class RCNN(Detector):
    """Faster R-CNN, Mask R-CNN, and both with a cascade of box heads.

    With a mask head there are ``masks [N, h, w]`` too: probabilities in a grid over each box.
    """

    def __init__(self, model: Any):
        _require(model, 'roi_head', 'StandardRoIHead', 'CascadeRoIHead')
        super().__init__(model, model.roi_head.test_cfg)
        _require(model, 'rpn_head', 'RPNHead')
        roi = model.roi_head
        if roi.with_shared_head:
            raise ExportError('shared heads are not exported')
        self.box_heads = _list(roi.bbox_head)
        self.box_extractors = _list(roi.bbox_roi_extractor)
        for head in self.box_heads:
            if head.custom_activation:
                raise ExportError(f'{type(head.loss_cls).__name__} of box heads is not exported')
        self.mask_heads = _list(roi.mask_head) if roi.with_mask else []
        self.mask_extractors: list = []
        if roi.with_mask:
            self.outputs = (*self.outputs, 'masks')
            shared = roi.share_roi_extractor
            self.mask_extractors = _list(
                roi.bbox_roi_extractor if shared else roi.mask_roi_extractor
            )
            for head in self.mask_heads:
                if type(head).__name__ != 'FCNMaskHead':
                    raise ExportError(f'masks of {type(head).__name__} are not exported')
        for extractor in (*self.box_extractors, *self.mask_extractors):
            if type(extractor).__name__ != 'SingleRoIExtractor':
                raise ExportError(f'{type(extractor).__name__} is not exported')
        _check_nms(model.rpn_head.test_cfg.nms)

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        features = self.model.extract_feat(self.prepare(image))
        total: Any = 0
        boxes = _never_empty(self.propose(features, image))
        stages = list(zip(self.box_heads, self.box_extractors, strict=True))
        for stage, (head, extractor) in enumerate(stages):
            logits, deltas = head(extract(extractor, features, boxes))
            total = total + logits
            classes = 1 if head.reg_class_agnostic else int(head.num_classes)
            if stage < len(stages) - 1:
                if classes > 1:
                    best = logits[:, :-1].argmax(1)[:, None, None].expand(-1, 1, 4)
                    deltas = deltas.unflatten(1, (classes, 4)).gather(1, best).squeeze(1)
                boxes = decode(head.bbox_coder, boxes, deltas, image)
                continue
            boxes = boxes.repeat_interleave(classes, dim=0)
            boxes = decode(head.bbox_coder, boxes, deltas.reshape(-1, 4), image)
        scores = (total / len(stages)).softmax(-1)[:-1, :-1]
        scale = self.scale(image, size)
        # mmdet looks for overlaps in the original image, or before where masks are predicted too.
        if not self.mask_heads:
            boxes = boxes * scale
        boxes = boxes.unflatten(0, (-1, classes))[:-1].expand(-1, int(scores.shape[1]), -1)
        place, labels = (scores > self.score_threshold).nonzero().unbind(1)
        boxes, scores = boxes[place, labels], scores[place, labels]
        kept = separate_nms(boxes, scores, labels, self.cfg.nms)[: self.cfg.max_per_img]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if not self.mask_heads:
            return boxes, scores, labels
        return boxes * scale, scores, labels, self.masks(features, boxes, labels)

    def propose(self, features: Sequence[Tensor], image: Tensor) -> Tensor:
        """Boxes ``[N, 4]`` in which there may be an object."""
        head = self.model.rpn_head
        cfg = head.test_cfg
        found: list[tuple[Tensor, ...]] = []
        for level, (scores, deltas, priors) in enumerate(_levels(head, *head(features))):
            scores, place = _top(scores.squeeze(1), cfg.get('nms_pre', -1))
            boxes = decode(head.bbox_coder, priors[place], deltas[place], image)
            found.append((boxes, scores, torch.full_like(place, level)))
        boxes, scores, levels = (torch.cat(values) for values in zip(*found, strict=True))
        kept = _large(boxes, cfg)
        boxes, scores, levels = boxes[kept], scores[kept], levels[kept]
        return boxes[separate_nms(boxes, scores, levels, cfg.nms)[: cfg.max_per_img]]

    def masks(self, features: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities ``[N, h, w]``, the mean of the stages of a cascade."""
        boxes, labels = _never_empty(boxes), F.pad(labels, (0, 1))
        total: Any = 0
        for head, extractor in zip(self.mask_heads, self.mask_extractors, strict=True):
            logits = head(extract(extractor, features, boxes))
            if head.class_agnostic:
                chosen = logits[:, 0]
            else:
                chosen = logits[torch.arange(labels.shape[0]), labels]
            total = total + chosen.sigmoid()
        return (total / len(self.mask_heads))[:-1]


def deployed(model: nn.Module) -> Deployed:
    """The exportable form of a model of mm.

    Raises:
        ExportError: there is none, or a part of it is not supported.
    """
    kinds: dict[str, Any] = {
        'ImageClassifier': Classifier,
        'EncoderDecoder': Segmentor,
        'RetinaNet': RetinaNet,
        'FasterRCNN': RCNN,
        'MaskRCNN': RCNN,
        'CascadeRCNN': RCNN,
    }
    name = type(model).__name__
    if name not in kinds:
        raise ExportError(f'a {name} is not exported; supported are {", ".join(kinds)}')
    return kinds[name](model).eval()


def decode(coder: Any, priors: Tensor, deltas: Tensor, image: Tensor) -> Tensor:
    """Boxes ``[N, 4]`` that ``deltas`` make of ``priors``, cut at the borders of the image."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    low, high = priors[:, :2], priors[:, 2:]
    center = (low + high) * 0.5 + (high - low) * deltas[:, :2]
    limit = 4.135166556742356  # the logarithm of 1000 / 16
    half = (high - low) * deltas[:, 2:].clamp(min=-limit, max=limit).exp() * 0.5
    boxes = torch.cat([center - half, center + half], dim=1)
    if not coder.clip_border:
        return boxes
    height, width = (_number(s) for s in image.shape[2:])
    border = torch.stack([width, height]).to(boxes.dtype).repeat(2)
    return torch.minimum(boxes.clamp(min=0), border)


def separate_nms(boxes: Tensor, scores: Tensor, groups: Tensor, cfg: Any) -> Tensor:
    """Indices of the boxes that no better one of their group overlaps, the best first."""
    if not cfg.get('class_agnostic', False):
        # Boxes of different groups are moved apart. The zero is there for a list without any.
        largest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
        boxes = boxes + (groups.to(boxes.dtype) * largest).unsqueeze(1)
    return nms(boxes, scores, float(cfg.get('iou_threshold', cfg.get('iou_thr'))))


def extract(extractor: Any, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """What mmdet's ``SingleRoIExtractor`` takes from the pyramid, ``[N, C, h, w]``."""
    rois = F.pad(boxes, (1, 0))  # the index of the image, 0
    levels = extractor.map_roi_levels(rois, len(extractor.roi_layers))
    parts, places = [], []
    for level, layer in enumerate(extractor.roi_layers):
        place = (levels == level).nonzero().squeeze(1)
        parts.append(
            roi_align(
                features[level], rois[place], layer.output_size, layer.spatial_scale,
                max(layer.sampling_ratio, 0), layer.aligned,
            )
        )  # fmt: skip
        places.append(place)
    return torch.cat(parts)[torch.cat(places).argsort()]


def _levels(head: Any, scores: Sequence[Tensor], deltas: Sequence[Tensor]) -> Any:
    """Per level of a pyramid: scores ``[N, classes]``, deltas ``[N, 4]``, anchors ``[N, 4]``."""
    for level, (s, d) in enumerate(zip(scores, deltas, strict=True)):
        anchors = head.prior_generator.base_anchors[level].to(s)
        right, down = head.prior_generator.strides[level]
        x, y = (torch.arange(n).to(s.dtype) for n in (s.shape[3], s.shape[2]))
        x, y = x[None] * right, y[:, None] * down
        x, y = x + 0 * y, y + 0 * x  # [H, W]
        priors = torch.stack([x, y, x, y], dim=-1)[:, :, None] + anchors  # [H, W, A, 4]
        yield (
            s[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels).sigmoid(),
            d[0].permute(1, 2, 0).reshape(-1, 4),
            priors.reshape(-1, 4),
        )


def _top(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The ``most`` best scores ``[N]``, the best first, and where they are."""
    count: Any = _number(scores.shape[0])
    if most > 0:
        count = torch.minimum(count, torch.tensor(most))
    return scores.topk(count if torch.jit.is_tracing() else int(count))


def _large(boxes: Tensor, cfg: Any) -> Tensor:
    least = cfg.get('min_bbox_size', -1)
    return (boxes[:, 2:] - boxes[:, :2] > least).all(1)


def _never_empty(boxes: Tensor) -> Tensor:
    """One more box at the end: onnxruntime cannot normalise the maps of none."""
    return F.pad(boxes, (0, 0, 0, 1))


def _number(size: Any) -> Tensor:
    """A size as a tensor; while tracing it is one."""
    return size if isinstance(size, Tensor) else torch.tensor(size)


def _list(modules: Any) -> list:
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _require(model: nn.Module, owner: str, *names: str) -> None:
    found = type(getattr(model, owner, None)).__name__
    if found not in names:
        raise ExportError(f'{owner} {found} is not exported; supported: {", ".join(names)}')


def _check_nms(cfg: Any) -> None:
    known = {'type', 'iou_threshold', 'iou_thr', 'class_agnostic', 'split_thr'}
    if cfg is None or cfg.get('type', 'nms') != 'nms' or set(cfg) - known:
        raise ExportError(f'only plain NMS is exported, but test_cfg asks for {cfg}')
