"""Choosing a model, its input size, anchors and schedule from the measurements of a data set."""

from dataclasses import dataclass, field, replace

import numpy as np

from ...checkpoints.weights import AUTO, find
from ...data.problems import DataError
from .measuring import Measured

# Heads per task; the first is the default, on a GPU the last.
HEADS = {
    'detection': ('retinanet', 'faster_rcnn'),
    'instance': ('mask_rcnn',),
    'segmentation': ('fpn', 'upernet'),
    'classification': ('classifier',),
}
TITLES = {
    'retinanet': 'RetinaNet',
    'faster_rcnn': 'Faster R-CNN',
    'mask_rcnn': 'Mask R-CNN',
    'fpn': 'Semantic FPN',
    'upernet': 'UperNet',
    'classifier': 'Classifier',
}
MINUTES = {'detection': 12, 'instance': 12, 'segmentation': 16, 'classification': 10}
SMALLEST = 16  # pixels that small objects of the smallest class keep on a CPU
CPU_PIXELS = 320 * 240  # of a segmentor's input
_SECONDS_PER_PIXEL = 2.2e-6  # of a training step for one image on two cores, if nothing is timed
_MAX_EPOCHS = {'cpu': 120, 'cuda': 150}


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        head: a key of :data:`TITLES`.
        arch: of ATMNet.
        device: ``cpu`` or ``cuda``.
        small: whether neck and head are the narrow ones for training from scratch on a CPU.
        pretrained: file with weights of the backbone.
        scale: width and height of the input in pixels; keeps the ratio of an image.
        batch: images per step.
        lr: learning rate.
        anchors: settings of the anchor generator.
        levels: number of pyramid levels with anchors.
        class_weight: weight of each class in the loss.
        choices: what was chosen and why, as two texts.
    """

    head: str
    arch: str
    device: str
    small: bool
    pretrained: str | None
    scale: tuple[int, int]
    batch: int
    lr: float
    anchors: dict = field(default_factory=dict)
    levels: int = 5
    class_weight: list[float] | None = None
    choices: list[tuple[str, str]] = field(default_factory=list)

    @property
    def seconds_per_image(self) -> float:
        """A guess, for a config that is not tried."""
        return _SECONDS_PER_PIXEL * self.scale[0] * self.scale[1]

    def with_half_the_batch(self) -> 'Recipe':
        """The recipe for a GPU with less memory.

        Raises:
            DataError: a step has one image already.
        """
        width, height = self.scale
        if self.batch == 1:
            raise DataError(
                f'not even one image of {width} x {height} fits into the memory of the GPU: choose '
                'a smaller --arch, or --device cpu'
            )
        batch = self.batch // 2
        why = f'{batch} images per step, since {self.batch} do not fit into the memory of the GPU'
        choices = [choice for choice in self.choices if choice[0] != 'batch']
        # As usual for Adam, the learning rate follows the square root.
        lr = float(f'{self.lr * (batch / self.batch) ** 0.5:.2g}')
        return replace(self, batch=batch, lr=lr, choices=[*choices, ('batch', why)])


def choose_recipe(
    measured: Measured,
    device: str,
    head: str | None = None,
    arch: str | None = None,
    pretrained: str | None = None,
) -> Recipe:
    """Choose a recipe; ``head`` and ``arch`` override the choice.

    Raises:
        FileNotFoundError: ``pretrained`` is :data:`.AUTO`, but the published weights are not there.
    """
    task = measured.found.task
    cpu = device == 'cpu'
    heads = HEADS[task]
    segmentor = task == 'segmentation'
    chosen = head or heads[-1 if segmentor and not cpu else 0]
    arch_chosen = arch or ('xt' if cpu else 't')
    if pretrained == AUTO:
        pretrained = str(find(arch_chosen))
    choices = [('device', 'a CPU' if cpu else 'a GPU')]
    why = 'as --head says' if head else f'the usual one on {choices[0][1]} for {task}'
    choices.append(('model', f'{TITLES[chosen]} on ATMNet-{arch_chosen}, {why}'))
    anchors: dict = {}
    levels, weight = 5, None
    if task in ('detection', 'instance'):
        scale, reason = _detector_scale(measured, cpu)
        anchors, levels, covered = _anchors(measured, scale, chosen)
        choices.append(('input', f'{scale[0]} x {scale[1]}: {reason}'))
        choices.append(('anchors', f'{_described(anchors)}; {covered:.1%} of the objects fit one'))
        batch = 4 if cpu else 8
        lr = 1e-3 if cpu else 1e-4
    elif segmentor:
        scale, reason = _segmentor_scale(measured, cpu)
        weight = _class_weight(measured)
        choices.append(('input', f'{scale[0]} x {scale[1]}: {reason}'))
        if weight:
            choices.append(
                ('loss', f'rare classes weigh up to {max(weight):g}, frequent ones {min(weight):g}')
            )
        batch, lr = (4, 2e-3) if cpu else (8, 1e-4)
    else:
        side = min(min(measured.image_size), 96 if cpu else 224)
        side = max(32, side // 16 * 16)
        scale = (side, side)
        choices.append(('input', f'{side} x {side} pixels'))
        batch, lr = (16, 1e-3) if cpu else (64, 5e-4)
    batch = max(1, min(batch, len(measured.train)))
    if pretrained:
        choices.append(('backbone', f'starts from {pretrained}'))
    else:
        choices.append(('backbone', 'starts from random weights; --pretrained FILE is far better'))
    return Recipe(
        head=chosen, arch=arch_chosen, device=device, small=cpu, pretrained=pretrained,
        scale=scale, batch=batch, lr=lr, anchors=anchors, levels=levels, class_weight=weight,
        choices=choices,
    )  # fmt: skip


def _detector_scale(measured: Measured, cpu: bool) -> tuple[tuple[int, int], str]:
    """Width and height at which objects of the smallest class are large enough."""
    width, height = measured.image_size
    longest = max(width, height)
    name, share = measured.small
    wanted, low, high = (SMALLEST, 256, 640) if cpu else (32, 640, 1333)
    side = wanted / share
    side = min(max(side, low), high, 2 * longest)
    side = max(_nearest(side, 32), 64) if side < high else high
    other = max(_nearest(side * min(width, height) / longest, 32), 64)
    scale = (side, other) if width >= height else (other, side)
    # Resize keeps the ratio, so that the smaller factor counts.
    factor = min(side / longest, other / min(width, height))
    pixels = share * longest
    text = (
        f'{name}, the smallest class, is {pixels:.0f} pixels wide in a quarter of the cases and '
        f'{pixels * factor:.0f} then'
    )
    return scale, text


def _segmentor_scale(measured: Measured, cpu: bool) -> tuple[tuple[int, int], str]:
    width, height = measured.image_size
    most = CPU_PIXELS if cpu else 512 * 1024
    factor = min(1.0, (most / (width * height)) ** 0.5)
    scale = (_nearest(width * factor, 32), _nearest(height * factor, 32))
    if factor < 1:
        return scale, f'{factor:.2f} of the median image, for speed'
    return scale, 'the size of the median image'


def _nearest(value: float, step: int) -> int:
    return max(1, round(value / step)) * step


def _anchors(measured: Measured, scale: tuple[int, int], head: str) -> tuple[dict, int, float]:
    """Settings of the anchor generator, number of levels, and the share of objects that fit."""
    sides = measured.objects[:, 1:3] * max(scale)
    sizes = np.sqrt(sides[:, 0] * sides[:, 1])
    low, high = np.quantile(sizes, (0.05, 0.95))
    aspects = sides[:, 1] / sides[:, 0]
    narrow, wide = np.quantile(aspects, (0.05, 0.95))
    ratios = [0.5, 1.0, 2.0]
    if narrow < 0.3:
        ratios.insert(0, 0.25)
    if wide > 3.4:
        ratios.append(4.0)
    first = 8 if head == 'retinanet' else 4
    base = float(np.clip(round(2 * low / first) / 2, 1.5, 8))
    octaves = 3 if head == 'retinanet' else 1
    steps = 2 ** (np.arange(octaves) / octaves)
    levels = 3 if head == 'retinanet' else 4
    while levels < 5 and first * base * 2 ** (levels - 1) * steps[-1] < 0.8 * high:
        levels += 1
    strides = [first * 2**level for level in range(levels)]
    anchors = np.outer(np.outer(strides, base * steps).ravel(), 1 / np.sqrt(ratios)).ravel()
    heights = np.outer(np.outer(strides, base * steps).ravel(), np.sqrt(ratios)).ravel()
    sample = sides[:: max(1, len(sides) // 20000)]
    inter = np.minimum(sample[:, :1], anchors) * np.minimum(sample[:, 1:], heights)
    union = sample.prod(1)[:, None] + anchors * heights - inter
    covered = float(((inter / union).max(1) >= 0.5).mean())
    key = {'octave_base_scale': base} if head == 'retinanet' else {'scales': [base]}
    return {**key, 'ratios': ratios, 'strides': strides}, levels, covered


def _described(anchors: dict) -> str:
    base = anchors.get('octave_base_scale') or anchors['scales'][0]
    sizes = ', '.join(f'{base * stride:.0f}' for stride in anchors['strides'])
    return f'of {sizes} pixels, height to width {", ".join(map(str, anchors["ratios"]))}'


def _class_weight(measured: Measured) -> list[float] | None:
    """Square roots of median over own frequency, if classes differ much."""
    counts = measured.counts('train')
    pixels = np.array([max(counts[i], 1) for i in range(len(measured.found.classes))], float)
    if pixels.max() < 10 * pixels.min():
        return None
    weights = np.clip(np.sqrt(np.median(pixels) / pixels), 0.4, 4)
    return [round(float(weight), 2) for weight in weights]


@dataclass(frozen=True)
class Schedule:
    """How long to train.

    Attributes:
        epochs: passes over the training images.
        steps: the same in steps.
        interval: epochs, or steps of a segmentor, from one evaluation to the next.
        why: the length in words.
    """

    epochs: int
    steps: int
    interval: int
    why: str


def choose_schedule(
    measured: Measured,
    recipe: Recipe,
    seconds: tuple[float, float] | None,
    minutes: float | None = None,
) -> Schedule:
    """Choose the length of training.

    Args:
        measured: the data set.
        recipe: the recipe.
        seconds: per image of training and of prediction, as timed; None for a guess.
        minutes: for training and its evaluations; None for the usual time on a CPU, and for as
            many steps as the number of images asks for on a GPU.
    """
    images = len(measured.train)
    task = measured.found.task
    evaluations = 4
    guess = recipe.seconds_per_image
    per_image, predicting = seconds or (guess, 0.5 * guess)
    if minutes is None and recipe.device == 'cpu':
        minutes = MINUTES[task]
    evaluating = predicting * len(measured.splits['val'])
    if minutes is not None:
        if evaluations * evaluating > 0.2 * 60 * minutes:
            evaluations = 1
        seen = (60 * minutes - evaluations * evaluating) / per_image
        epochs = seen / images
    else:
        epochs = (40_000 if recipe.pretrained else 80_000) / images
        epochs = max(epochs, 12)
    least, most = 2, _MAX_EPOCHS[recipe.device]
    short = epochs < least
    epochs = min(max(epochs, least), most)
    if task != 'segmentation':
        epochs = int(epochs)
    steps = max(int(epochs * images / recipe.batch), 4)
    total = (epochs * images * per_image + evaluations * evaluating) / 60
    interval = max(1, int(steps if task == 'segmentation' else epochs) // evaluations)
    if task == 'segmentation':
        steps = interval * evaluations
    why = f'{epochs:.0f} epochs of {images} images'
    if minutes is not None:
        speed = f'{per_image:.2f} s per image' + ('' if seconds else ', a guess')
        why += f': about {_minutes(max(round(total), 1))} ({speed})'
        if short:
            why += f'; this data needs more than {_minutes(minutes)} on this device'
    return Schedule(int(epochs), steps, interval, why)


def _minutes(number: float) -> str:
    return f'{number:g} minute' + ('' if number == 1 else 's')
