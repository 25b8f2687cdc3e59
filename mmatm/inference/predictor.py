"""Predictions of a trained detector, segmentor or classifier."""

import copy
import os
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from mmengine.runner import autocast
from mmengine.structures import PixelData

from ..checkpoints.loading import load_whole_model, reading_safely
from ..data import first_test_set
from ..export.setup import count_classes
from ..packaged import find_config
from ..utils.messages import log, shorten
from .inputs import Image, Images
from .prediction import Prediction, decode
from .tiles import grid, merge_logits, merge_objects

SCOPES = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmpretrain': 'classification'}
MIN_TILE = 32  # pixels
_MASK_PIXELS = 1 << 28  # of the masks that are drawn at once


class Predictor:
    """Predict with mm's inferencers, as ``tools/test.py`` does, for anything that holds images.

    Args:
        config: a config, its file, or the name of a packaged config.
        checkpoint: file or URL; ``ema:FILE`` for the EMA weights in it. It is read safely.
        device: e.g. ``cpu`` or ``cuda:0``; by default the GPU if there is one.

    Attributes:
        task: ``detection``, ``segmentation`` or ``classification``.
        classes: names of the classes.
        skipped: names of images that the last call could not read, and the reasons.

    Raises:
        FileNotFoundError: the config or the checkpoint does not exist.
        CheckpointError: the checkpoint cannot be read safely, or lacks parameters of the model.
        ValueError: the config is not one of mmdet, mmseg or mmpretrain, has no test pipeline, or
            does not name the classes of the model.

    Example:
        >>> predictor = mmatm.Predictor('mask_rcnn_atmnet_t', 'detector.pth')  # doctest: +SKIP
        >>> for prediction in predictor('film.mp4', stream=True):  # doctest: +SKIP
        ...     print(prediction.name, prediction.arrays['boxes'].shape)
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike,
        device: str | None = None,
    ):
        if not isinstance(config, Config):
            config = Config.fromfile(find_config(os.fspath(config)))
        checkpoint = os.fspath(checkpoint)
        scope = config.get('default_scope')
        if scope not in SCOPES:
            raise ValueError(f'default_scope must be one of {", ".join(SCOPES)}, but is {scope!r}')
        settings: Any = first_test_set(config)
        if not settings.get('pipeline'):
            raise ValueError('the config has no test_dataloader.dataset.pipeline to predict with')
        config = copy.deepcopy(config)
        config.test_dataloader.dataset = settings  # mm's inferencers do not look into wrappers
        self.task = SCOPES[scope]
        init_default_scope(scope)
        dataset = DATASETS.build({**settings, 'pipeline': [], 'lazy_init': True})
        self.metainfo: dict[str, Any] = dict(dataset.metainfo)
        self.classes = tuple(self.metainfo.get('classes') or ())
        self.first_label = int(bool(getattr(dataset, 'reduce_zero_label', False)))
        self.batch_size: int = config.test_dataloader.get('batch_size', 1)
        self.fp16 = bool((config.get('test_cfg') or {}).get('fp16'))
        self._load = _loader(settings.pipeline)
        with reading_safely(), warnings.catch_warnings():
            # They are set below, to those of the config as in tools/test.py.
            warnings.filterwarnings('ignore', 'dataset_meta or class names are not saved')
            self.inferencer = _inferencer(scope, config, checkpoint, device)
        self.model = self.inferencer.model
        load_whole_model(self.model, checkpoint)
        count = count_classes(self.model)
        if not self.classes or count not in (None, len(self.classes)):
            raise ValueError(
                f'the model has {count} classes, but the config names {len(self.classes)}: set '
                'test_dataloader.dataset.metainfo.classes'
            )
        if scope == 'mmseg' and count == 1:
            raise ValueError(
                'the only class of a segmentor needs another for all other pixels: set '
                'num_classes=2 and out_channels=1 of the decode head, and two names in '
                'test_dataloader.dataset.metainfo.classes'
            )
        names = ('classes', 'palette') if scope == 'mmseg' else self.metainfo
        self.model.dataset_meta = {name: self.metainfo.get(name) for name in names}
        if scope == 'mmdet':
            self.model.dataset_meta.setdefault('palette', 'random')
            self.inferencer.visualizer.dataset_meta = self.model.dataset_meta
        self.skipped: dict[str, str] = {}

    def __call__(
        self,
        inputs: Any,
        *,
        stream: bool = False,
        batch_size: int | None = None,
        tile: int | None = None,
        overlap: float = 0.25,
        recursive: bool = False,
    ) -> list[Prediction] | Iterator[Prediction]:
        """Predict for images, in their order.

        An image that cannot be read is left out: it is logged and added to :attr:`skipped`.

        Args:
            inputs: see :class:`.Images`.
            stream: return an iterator, which holds one batch at a time, instead of a list.
            batch_size: images per call of the model; by default that of the config's test loader,
                so that images are padded as in ``tools/test.py``.
            tile: side of the tiles into which larger images are cut, in pixels; by default images
                stay whole.
            overlap: least share of a tile that its neighbour covers, in [0, 1).
            recursive: whether to look into the folders of a folder.

        Raises:
            FileNotFoundError: a path does not exist.
            ValueError: a folder holds no image, or an argument is not allowed.
        """
        images = self.open(inputs, recursive=recursive)
        predictions = self.predict(images, batch_size=batch_size, tile=tile, overlap=overlap)
        return predictions if stream else list(predictions)

    def open(self, inputs: Any, recursive: bool = False) -> Images:
        """Return the images of ``inputs``, which are read as by the test pipeline."""
        return Images(inputs, self._load, recursive)

    def predict(
        self,
        images: Images,
        batch_size: int | None = None,
        tile: int | None = None,
        overlap: float = 0.25,
    ) -> Iterator[Prediction]:
        """Predict for what :meth:`open` returned; see :meth:`__call__`."""
        size = self.batch_size if batch_size is None else batch_size
        if not isinstance(size, int) or size < 1:
            raise ValueError(f'batch_size must be an integer of at least 1, but is {size}')
        if tile is not None and tile < MIN_TILE:
            raise ValueError(f'tile must be at least {MIN_TILE} pixels, but is {tile}')
        if not 0 <= overlap < 1:
            raise ValueError(f'overlap must be in [0, 1), but is {overlap}')
        if tile is not None and self.task == 'classification':
            raise ValueError(
                'tile is for detectors and segmentors: a classifier needs whole images'
            )
        self.skipped = {}
        return self._predict(images, size, tile, overlap)

    def _predict(
        self, images: Images, size: int, tile: int | None, overlap: float
    ) -> Iterator[Prediction]:
        readable = self._readable(images)
        while batch := list(islice(readable, size)):
            whole = [i for i in batch if tile is None or max(i.pixels.shape[:2]) <= tile]
            try:
                samples = self._forward([image.pixels for image in whole]) if whole else []
            except cv2.error as error:
                names = shorten(image.name for image in whole)
                raise ValueError(
                    f'an image cannot be resized, perhaps as it is too thin ({error.err}): {names}'
                ) from None
            found = dict(zip(map(id, whole), map(self._compact, samples), strict=True))
            del samples
            for image in batch:
                sample = found.pop(id(image), None)
                if sample is None:
                    assert tile is not None
                    sample = self._tiled(image.pixels, size, tile, overlap)
                yield Prediction(
                    image.name, image.pixels, sample, self.classes, image.fps, self._draw
                )

    def _readable(self, images: Images) -> Iterator[Image]:
        for image in images:
            if image.pixels is None:
                self.skipped[image.name] = image.problem
                log(f'skipped, it cannot be read: {image.problem}')
            else:
                yield image

    def _forward(self, arrays: list[np.ndarray]) -> list[Any]:
        """The data samples of one batch."""
        (batch,) = self.inferencer.preprocess(arrays, batch_size=len(arrays))
        with autocast(enabled=self.fp16):
            # mmdet's inferencer passes on the images too.
            return self.inferencer.forward(batch[1] if self.task == 'detection' else batch)

    def _compact(self, sample: Any) -> Any:
        """Move a data sample to the CPU in float32, encode its masks, and drop logits."""
        if 'seg_logits' in sample:
            del sample.seg_logits
        sample = sample.detach().cpu()
        if self.task == 'segmentation':
            sample.pred_sem_seg.data = sample.pred_sem_seg.data.long()  # float of one logit
        elif self.task == 'classification':
            sample.set_pred_score(sample.pred_score.float())
        else:
            found = sample.pred_instances
            found.bboxes, found.scores = found.bboxes.float(), found.scores.float()
            if 'masks' in found:
                from mmdet.structures.mask import encode_mask_results

                found.masks = encode_mask_results(found.masks.numpy())
        return sample

    def _tiled(self, pixels: np.ndarray, size: int, tile: int, overlap: float) -> Any:
        """The data sample of an image, from its tiles."""
        places = grid(pixels.shape, tile, overlap)

        def samples() -> Iterator[Any]:
            for start in range(0, len(places), size):
                part = places[start : start + size]
                yield from self._forward([pixels[y : y + tile, x : x + tile] for y, x in part])

        if self.task == 'detection':
            found = list(map(self._compact, samples()))
            return merge_objects(found, places, pixels.shape, tile, self._nms())
        from mmseg.structures import SegDataSample

        threshold = getattr(self.model.decode_head, 'threshold', None) or 0.5
        logits = (sample.seg_logits.data.cpu() for sample in samples())
        labels = merge_logits(logits, places, pixels.shape, threshold)
        return SegDataSample(pred_sem_seg=PixelData(data=labels))

    def _nms(self) -> dict:
        """The settings of the detector's own NMS."""
        cfg = self.model.test_cfg or {}
        cfg = cfg.get('rcnn') or cfg
        return dict(cfg.get('nms') or dict(type='nms', iou_threshold=0.5))

    def _draw(self, prediction: Prediction, score_thr: float) -> np.ndarray:
        """Draw a prediction, ``[H, W, 3]`` BGR."""
        image = np.ascontiguousarray(prediction.image[..., ::-1])
        sample = prediction.sample
        if self.task == 'classification':
            from mmpretrain.visualization import UniversalVisualizer

            visualizer = self.inferencer.visualizer or UniversalVisualizer()
            self.inferencer.visualizer = visualizer
            visualizer.visualize_cls(image, sample, classes=self.classes, draw_gt=False)
            image = visualizer.get_image()
        elif self.task == 'segmentation':
            image = self._draw_labels(image, sample)
        else:
            found = sample.pred_instances
            found = found[found.scores > score_thr]
            # The masks of a large image may not fit into memory, so draw a few objects at a time.
            step = max(_MASK_PIXELS // image[..., 0].size, 1) if 'masks' in found else len(found)
            for start in range(0, len(found), step or 1):
                part = found[start : start + step]
                if 'masks' in part:
                    masks = torch.from_numpy(decode(part.masks, prediction.image.shape))
                    part.pop('masks')
                    part.masks = masks
                shown = sample.new(metainfo=sample.metainfo)
                shown.pred_instances = part
                panoptic = shown.get('pred_panoptic_seg')
                if panoptic is not None and (panoptic.sem_seg == len(self.classes)).all():
                    del shown.pred_panoptic_seg  # mmdet cannot draw one without segments
                (image,) = self.inferencer.visualize(
                    [image], [shown], return_vis=True, pred_score_thr=score_thr
                )
        return np.ascontiguousarray(image[..., ::-1])

    def _draw_labels(self, image: np.ndarray, sample: Any) -> np.ndarray:
        """Draw a label map with mmseg's visualizer, whose font has no letters beyond ASCII."""
        if image.shape[:2] == (1, 1):  # mmseg takes a mask of one pixel for an index
            return image
        plain = all(name.isascii() for name in self.classes)
        (drawn,) = self.inferencer.visualize([image], [sample], return_vis=True, with_labels=plain)
        if plain:
            return drawn
        labels = sample.pred_sem_seg.data[0].numpy()
        visualizer = self.inferencer.visualizer
        visualizer.set_image(drawn)
        for label in np.unique(labels):
            rows, columns = np.nonzero(labels == label)
            pixels = np.bincount(rows)
            widest = np.flatnonzero(pixels == pixels.max())
            row = widest[len(widest) // 2]
            color = tuple(value / 255 for value in visualizer.dataset_meta['palette'][label])
            visualizer.draw_texts(
                self.classes[label],
                np.array([np.median(columns[rows == row]), row]),
                colors='w',
                vertical_alignments='center',
                horizontal_alignments='center',
                bboxes=dict(facecolor=color, edgecolor='k', pad=1),
            )
        return visualizer.get_image()


def _loader(pipeline: list[dict]) -> Any:
    """Return a function that reads an image file as the pipeline does."""

    def kind(settings: dict) -> str:
        name = settings['type']  # or a class
        return getattr(name, '__name__', name).split('.')[-1]

    settings = next((t for t in pipeline if kind(t) == 'LoadImageFromFile'), None)
    if settings is None:
        raise ValueError('the test pipeline has no LoadImageFromFile')
    settings = {**settings, 'to_float32': False}
    transform = TRANSFORMS.build(settings)

    def load(path: str) -> np.ndarray:
        return transform(dict(img_path=path))['img']

    return load


def _inferencer(scope: str, config: Config, checkpoint: str, device: str | None) -> Any:
    if scope == 'mmdet':
        from mmdet.apis import DetInferencer

        return DetInferencer(config, checkpoint, device, show_progress=False)
    if scope == 'mmseg':
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer(config, checkpoint, device=device)
    from mmengine.device import get_device
    from mmpretrain import ImageClassificationInferencer

    return ImageClassificationInferencer(config, checkpoint, device or get_device())
