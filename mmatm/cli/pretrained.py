"""``--pretrained``: start a backbone from published weights, and warn where it does not."""

import argparse
import os
import sys

from mmengine.config import Config, ConfigDict

from ..checkpoints.weights import AUTO, PUBLISHED, find, find_file, folder, locate

_WIDTH = 88


def add_pretrained_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--pretrained [FILE]``."""
    parser.add_argument(
        '--pretrained',
        nargs='?',
        const=AUTO,
        metavar='FILE',
        help='start the backbone from FILE (ema:FILE for the EMA weights in it), or from the '
        'published ImageNet weights of its size ("mmatm weights" lists them)',
    )


def use_pretrained(cfg: Config, file: str) -> None:
    """Set ``init_cfg`` of the backbone.

    Args:
        cfg: the config; changed in place.
        file: path, URL, or name of a file in the folder of weights; :data:`AUTO` for the published
            weights of an ATMNet of this size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the config has no backbone, or no weights were published for it.
    """
    backbone = cfg.model.get('backbone')
    if backbone is None:
        raise ValueError('--pretrained needs a model with a backbone')
    if file == AUTO:
        arch = _arch(backbone)
        if arch is None:
            raise ValueError(
                '--pretrained needs a file unless the backbone is an ATMNet of a published size; '
                f'it is a {backbone.type}'
            )
        path = str(find(arch))
    else:
        path = find_file(file)
    backbone.init_cfg = ConfigDict(type='Pretrained', checkpoint=path)


def warn_if_random(cfg: Config) -> None:
    """Print a block if an ATMNet that detects or segments starts from random weights.

    Results are published for backbones that start from ImageNet weights. A config that sets another
    initialization, such as the demos', and classifiers, which are trained from scratch, are silent.
    Only rank 0 prints.
    """
    backbone = cfg.model.get('backbone') or {}
    quiet = backbone.get('init_cfg') or cfg.get('load_from') or cfg.get('resume')
    if cfg.get('default_scope') == 'mmpretrain' or quiet or os.environ.get('RANK', '0') != '0':
        return
    arch = _arch(backbone)
    if arch is None:
        return
    weights = next(weights for weights in PUBLISHED if weights.arch == arch)
    lines = [
        f'ATMNet-{arch} STARTS FROM RANDOM WEIGHTS.',
        '',
        'Published results start from ImageNet weights. Without them, training this recipe gives',
        'a far lower AP or mIoU.',
        '',
    ]
    if path := locate(weights):
        lines += [f'They are here: {path}', 'Add  --pretrained  to use them.']
    else:
        lines += [
            f'Download  {weights.url}  with a browser,',
            f'save it as  {folder() / weights.file}',
            'and add  --pretrained',
        ]
    print('=' * _WIDTH, *(f'  {line}'.rstrip() for line in lines), '=' * _WIDTH, sep='\n',
          file=sys.stderr, flush=True)  # fmt: skip


def _arch(backbone: ConfigDict) -> str | None:
    """The size of an ATMNet; None for other backbones and sizes of one's own."""
    arch = backbone.get('arch', 't')
    published = arch in [weights.arch for weights in PUBLISHED]
    return arch if published and backbone.get('type') in ('ATMNet', 'mmatm.ATMNet') else None
