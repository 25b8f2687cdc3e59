"""List the published weights, or tell what a checkpoint holds: mmatm weights [--check FILE]"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..checkpoints import CheckpointError, read_checkpoint
from ..checkpoints.loading import EMA_PREFIX
from ..checkpoints.names import BACKBONE, is_atmnet, is_output_norm
from ..checkpoints.reading import download, is_remote
from ..checkpoints.weights import FOLDER, PAGE, PUBLISHED, find_file, folder, locate
from ..models import ARCHS, Trunk
from ..utils.files import sha256
from ..utils.messages import shorten
from .arguments import add_trust_flag

# The first pattern that a name matches tells the head.
_HEADS = {
    'classifier': r'head\.fc\.',
    'Semantic FPN': r'decode_head\.scale_heads\.',
    'UperNet': r'decode_head\.(psp_modules|fpn_bottleneck)\.',
    'segmentor': r'decode_head\.',
    'Cascade Mask R-CNN': r'roi_head\.mask_head\.\d',
    'Cascade R-CNN': r'roi_head\.bbox_head\.\d',
    'Mask R-CNN': r'roi_head\.mask_head\.',
    'Faster R-CNN': r'roi_head\.',
    'RetinaNet': r'bbox_head\.retina_cls\.',
    'detector of one stage': r'bbox_head\.',
}
# Layers with one output per class, and how many outputs are not classes.
_CLASSES = {
    r'head\.fc\.weight': 0,
    r'decode_head\.conv_seg\.weight': 0,
    r'roi_head\.bbox_head\.(0\.)?fc_cls\.weight': 1,
}


@dataclass
class Content:
    """What a checkpoint holds.

    Attributes:
        arch: size of the ATMNet; None if no published size fits.
        stages: number of its stages that are there.
        head: kind of head and number of classes; empty if there is none.
        parts: number of tensors of each part of the model.
        missing: tensors of the backbone that are not there.
        extra: tensors in the backbone that do not belong there.
        wrong: tensors of the backbone with another shape, and both shapes.
    """

    arch: str | None
    stages: int
    head: str
    parts: Mapping[str, int]
    missing: list[str]
    extra: list[str]
    wrong: list[str]

    @property
    def is_whole(self) -> bool:
        """Whether the backbone has all its tensors, in their shapes, and no others."""
        return not (self.arch is None or self.missing or self.extra or self.wrong)


def inspect(weights: Mapping[str, Any]) -> Content:
    """Tell what the tensors of a checkpoint are, from their names and shapes.

    Args:
        weights: tensors by mm's names, as :func:`.read_checkpoint` returns an ATMNet's.
    """
    head = next((kind for kind, p in _HEADS.items() if any(re.match(p, n) for n in weights)), '')
    for pattern, others in _CLASSES.items():
        layer = next((name for name in weights if re.fullmatch(pattern, name)), None)
        if layer is not None:
            head += f', {len(weights[layer]) - others} classes'
            break
    parts = Counter(name.split('.')[0] for name in weights)
    found = {
        name.removeprefix(BACKBONE): tuple(getattr(value, 'shape', ()))
        for name, value in weights.items()
        if name.startswith(BACKBONE)
    }
    stages = len({name.split('.')[1] for name in found if name.startswith('stages.')})
    norms = {name: found.pop(name) for name in list(found) if is_output_norm(name)}

    def differences(arch: str) -> tuple[list[str], list[str], list[str]]:
        with torch.device('meta'):
            trunk = Trunk(arch, num_stages=max(stages, 1))
        expected = {name: tuple(value.shape) for name, value in trunk.state_dict().items()}
        # Which of the four output norms there are depends on the model; the last one always is.
        for i in {stages - 1, *(int(name[4]) for name in norms)}:
            width = (trunk.widths[i],) if 0 <= i < len(trunk.widths) else ()
            expected |= {f'norm{i}.weight': width, f'norm{i}.bias': width}
        shapes = {**found, **norms}
        # A 1 x 1 convolution holds the same numbers as a linear layer.
        shapes = {n: s[:-2] if s == (*expected.get(n, ()), 1, 1) else s for n, s in shapes.items()}
        wrong = [
            f'{name} is {list(shapes[name])}, expected {list(shape)}'
            for name, shape in expected.items()
            if name in shapes and shapes[name] != shape
        ]
        return sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected), wrong

    if not found:
        return Content(None, 0, head, parts, [], [], [])
    candidates = {arch: differences(arch) for arch in ARCHS}
    arch, (missing, extra, wrong) = min(candidates.items(), key=lambda c: sum(map(len, c[1])))
    return Content(arch, stages, head, parts, missing, extra, wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description='List the published weights, or check a file')
    parser.add_argument('--check', nargs='+', metavar='FILE', help='tell what a checkpoint holds')
    add_trust_flag(parser)
    args = parser.parse_args()
    if not args.check:
        _list()
        return
    try:
        # A generator would stop at the first file that is not whole.
        whole = [_check(name) for name in args.check]
    except (OSError, CheckpointError) as error:
        sys.exit(str(error))
    if not all(whole):
        sys.exit(1)


def _list() -> None:
    rows = [('file', 'holds', 'published', '')]
    rows += [
        (w.file, f'ATMNet-{w.arch}, {w.holds}', w.result, f'here: {path}' if path else 'not here')
        for w in PUBLISHED
        for path in [locate(w)]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            '  '.join(f'{cell:{width}}' for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print(f'\nGet them with a browser, and save them under these names in {folder()}')
    print(f'(the environment variable {FOLDER} sets another folder):\n')
    for weights in PUBLISHED:
        print(f'  {weights.file:{widths[0]}}  {weights.url}')
    print(f'\nThe links are those of {PAGE}')


def _check(name: str) -> bool:
    """Print what a file holds; whether that is a whole ATMNet."""
    file = find_file(name).removeprefix(EMA_PREFIX)
    path = download(file) if is_remote(file) else file
    content = read_checkpoint(path, ema=name.startswith(EMA_PREFIX))
    print(f'{path}\n  SHA-256   {sha256(path)}')
    weights = content.get('state_dict', content)
    if not isinstance(weights, Mapping) or not is_atmnet(weights):
        print('  holds     no ATMNet; it begins with ' + shorten(map(str, weights)))
        return False
    found = inspect(weights)
    stages = '' if found.stages == 4 else f', the first {found.stages} of 4 stages'
    print(f'  backbone  ATMNet-{found.arch}{stages}')
    print(f'  head      {found.head or "none"}')
    print('  tensors   ' + ', '.join(f'{part} {count}' for part, count in found.parts.items()))
    if not found.is_whole:
        for label, names in (
            ('missing', found.missing), ('extra', found.extra), ('shape', found.wrong)
        ):  # fmt: skip
            if names:
                print(f'  {label:8}  {len(names)}: {shorten(names)}')
        print('  NOT WHOLE: it fits no published size')
        return False
    print('  whole     every tensor of the backbone is there, and nothing else')
    return True
