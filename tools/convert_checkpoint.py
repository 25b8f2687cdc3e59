#!/usr/bin/env python
"""Convert checkpoints: python tools/convert_checkpoint.py SRC DST [--to mm|timm|published]

SRC is a published, timm or mm file that contains an ATMNet, or a detector or segmentor based on
one. DST ends in .pth or .safetensors; the first digits of the file's SHA-256 are added to its name.
Only weights are written. Heads of detectors and segmentors have no names in timm's and the
published layout, and some output norms have none in timm's, so these are left out.
"""

import argparse
import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mmatm.checkpoints import (
    CheckpointError,
    adapt_state_dict,
    published_name,
    read_checkpoint,
    timm_name,
)
from mmatm.checkpoints.fitting import why_unusable
from mmatm.checkpoints.names import BACKBONE, HEAD, common_name, is_atmnet
from mmatm.cli.arguments import add_trust_flag, require_writable
from mmatm.models import ARCHS, ATMNet
from mmatm.utils.files import write_atomically

SUFFIXES = ('.pth', '.safetensors')


def main() -> None:
    first, _, rest = __doc__.partition('\n')
    parser = argparse.ArgumentParser(description=first, epilog=rest)
    parser.add_argument('src', help='checkpoint to read')
    parser.add_argument('dst', help='file to write, .pth or .safetensors')
    parser.add_argument('--to', choices=['mm', 'timm', 'published'], default='mm')
    parser.add_argument('--ema', action='store_true', help='convert the EMA weights')
    add_trust_flag(parser)
    args = parser.parse_args()
    dst = Path(args.dst)
    if dst.suffix not in SUFFIXES:
        sys.exit(f'DST must end in {" or ".join(SUFFIXES)}, but is {dst}')
    if not dst.parent.is_dir():
        sys.exit(f'the folder of DST does not exist: {dst.parent}')
    require_writable(dst.parent)
    try:
        arch, weights, meta = read_weights(args.src, args.ema)
    except (CheckpointError, FileNotFoundError) as error:
        sys.exit(f'{args.src}: {error}')
    converted = convert(weights, arch, args.to)
    left_out = len(weights) - len(converted)
    if dst.suffix == '.pth':
        content: dict[str, Any] = converted
        if args.to == 'mm' or has_backbone(converted):
            content = {'meta': meta, 'state_dict': converted}
        elif args.to == 'published':
            content = {'model': converted}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        file = write(dst, buffer.getvalue())
    else:
        file = write(dst, safetensors.torch.save(converted))
    print(f'{file}: ATMNet-{arch}, {len(converted)} tensors for {args.to}')
    if left_out:
        print(f'{left_out} tensors were left out, because this layout has no names for them')


def has_backbone(names: Any) -> bool:
    return any(name.startswith(BACKBONE) for name in names)


def read_weights(src: str, ema: bool = False) -> tuple[str, dict[str, Tensor], dict]:
    """Return the arch, the weights under mm's names, and mm's ``meta`` if there is one.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file cannot be read, holds no ATMNet, or its tensors do not fit the
            arch.
    """
    checkpoint = read_checkpoint(src, ema=ema)
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, dict) or not is_atmnet(map(str, weights)):
        raise CheckpointError('holds no ATMNet')
    weights = dict(weights)
    for name, value in weights.items():
        if reason := why_unusable(value):
            raise CheckpointError(f'{name} holds no plain real numbers: it {reason}')

    own = [common_name(n) for n in weights if n.startswith(BACKBONE)]
    blocks = {tuple(n.split('.')[1:4:2]) for n in own if '.blocks.' in n}
    depths = tuple(sum(stage == str(i) for stage, _ in blocks) for i in range(4))
    arch = next((arch for arch, known in ARCHS.items() if known['depths'] == depths), None)
    if arch is None:
        known = ', '.join(f'{arch} {known["depths"]}' for arch, known in ARCHS.items())
        raise CheckpointError(f'has {depths} blocks per stage, unlike any ATMNet: {known}')
    stem = next((v for n, v in weights.items() if _is_stem(n) and v.dim() == 4), None)
    with torch.device('meta'):
        model = ATMNet(
            arch,
            in_channels=3 if stem is None else stem.shape[1],
            out_indices=[i for i in range(4) if f'norm{i}.weight' in own] or [3],
        )
    backbone = {n: weights.pop(n) for n in list(weights) if n.startswith(BACKBONE)}
    count = len(backbone)
    adapt_state_dict(backbone, BACKBONE, model)
    if len(backbone) != count:
        raise CheckpointError(f'has {count - len(backbone)} more tensors than ATMNet-{arch}')
    weights |= backbone
    head = {n.removeprefix(HEAD): v.shape for n, v in weights.items() if n.startswith(HEAD)}
    width = model.widths[-1]
    if head and (head.keys() != {'weight', 'bias'} or head['weight'] != (*head['bias'][:1], width)):
        shapes = {name: list(shape) for name, shape in head.items()}
        raise CheckpointError(f'the head must be [classes, {width}] and [classes], but is {shapes}')
    meta = checkpoint.get('meta')
    return arch, weights, meta if isinstance(meta, dict) else {}


def _is_stem(name: str) -> bool:
    return common_name(name) == 'stem.weight'


def convert(weights: dict[str, Tensor], arch: str, to: str) -> dict[str, Tensor]:
    """Convert weights from mm's names and shapes to those of ``to``.

    A backbone for dense prediction keeps its prefix, as in the published segmentors.
    """
    weights = {name: value.detach().clone().contiguous() for name, value in weights.items()}
    if to == 'mm':
        return weights
    dense = any(f'{BACKBONE}norm{i}.weight' in weights for i in range(3))
    skipped = tuple(f'{BACKBONE}norm{i}.' for i in range(3)) if to == 'timm' else ()
    converted = {}
    for name, value in weights.items():
        if not name.startswith((BACKBONE, HEAD)) or name.startswith(skipped):
            continue
        own = name.removeprefix(BACKBONE)
        if to == 'timm':
            converted[timm_name(own)] = value
            continue
        if own.endswith(('.mixer.width.weight', '.mixer.height.weight')):
            value = value[..., None, None]  # 1x1 convolutions there
        prefix = BACKBONE if dense else ''
        converted[prefix + published_name(own, ARCHS[arch]['depths'], not dense)] = value
    return converted


def write(dst: Path, content: bytes) -> Path:
    """Atomically write a file with the hash of its content in its name."""
    digest = hashlib.sha256(content).hexdigest()
    final = dst.with_name(f'{dst.stem}-{digest[:8]}{dst.suffix}')
    write_atomically(final, content)
    return final


if __name__ == '__main__':
    main()
