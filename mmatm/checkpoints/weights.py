"""The weights that the authors of the paper published: what they are, and where they are kept."""

import os
from dataclasses import dataclass
from pathlib import Path

PAGE = 'https://github.com/microsoft/TokenMixers/tree/main/Active%20Token%20Mixer'
FOLDER = 'MMATM_WEIGHTS'  # environment variable
AUTO = 'auto'  # --pretrained without a file


@dataclass(frozen=True)
class Weights:
    """A published file.

    Attributes:
        arch: size of the backbone.
        file: name under which mmatm looks for it.
        holds: what it is.
        result: published accuracy.
        url: where to get it, with a browser.
        names: other names under which it is found, from the authors' instructions.
    """

    arch: str
    file: str
    holds: str
    result: str
    url: str
    names: tuple[str, ...] = ()


def _classifier(
    arch: str, top1: float, link: str, size: int = 224, names: tuple[str, ...] = ()
) -> Weights:
    file = f'atmnet_{arch}.pth' if size == 224 else f'atmnet_{arch}_{size}.pth'
    holds = f'ImageNet-1k classifier, {size} pixels'
    return Weights(arch, file, holds, f'top-1 {top1}', f'https://1drv.ms/u/{link}', names)


# Links and figures are those of the authors' pages (PAGE, and segmentation/ there).
PUBLISHED = (
    _classifier('xt', 79.7, 's!AjKVODXuNei2gURnyKmplFDprQKN?e=ASnyhY'),
    _classifier(
        't', 82.0, 's!AjKVODXuNei2gU0rtxn6X4OYXNk_?e=NK0na9', names=('activemlp_tiny.pth',)
    ),
    _classifier('s', 83.1, 's!AjKVODXuNei2gUfauQWGx-Van6Jm?e=dhhAuY'),
    _classifier('b', 83.5, 's!AjKVODXuNei2gUlrARMxjRm7NXl-?e=EtIhf8'),
    _classifier(
        'l', 83.8, 's!AjKVODXuNei2gUx7dqh6RmoXuawu?e=6LrtCa', names=('activemlp_large.pth',)
    ),
    _classifier('l', 84.8, 's!AjKVODXuNei2gU7b2E7Y93-lKCGd?e=hHyPkq', size=384),
    Weights(
        'l',
        'upernet_atmnet_l.pth',
        'UperNet for ADE20K',
        'mIoU 50.05, multi-scale 51.10',
        'https://1drv.ms/u/s!AjKVODXuNei2gUZ1blJ4Fe-qspi3?e=MI6xOL',
        ('active_large_upernet_160k.pth',),
    ),
)


def folder() -> Path:
    """Return where weights are kept: ``$MMATM_WEIGHTS``, by default ``~/.cache/mmatm/weights``."""
    return Path(os.environ.get(FOLDER) or Path('~', '.cache', 'mmatm', 'weights')).expanduser()


def locate(weights: Weights) -> Path | None:
    """Return the path of a published file if it is in :func:`folder`."""
    paths = (folder() / name for name in (weights.file, *weights.names))
    return next((path for path in paths if path.is_file()), None)


def find(arch: str) -> Path:
    """Return the file with the ImageNet weights of a backbone, to start training from.

    Args:
        arch: size of the backbone: ``xt``, ``t``, ``s``, ``b`` or ``l``.

    Raises:
        FileNotFoundError: it is not in :func:`folder`. The message says where to get it.
        ValueError: nothing was published for ``arch``.
    """
    known = [weights for weights in PUBLISHED if weights.arch == arch]
    if not known:
        sizes = ', '.join(dict.fromkeys(weights.arch for weights in PUBLISHED))
        raise ValueError(f'weights were published for the sizes {sizes}, but not for {arch}')
    if path := locate(known[0]):
        return path
    raise FileNotFoundError(
        f'the ImageNet weights of ATMNet-{arch} are not there: download {known[0].url} with a '
        f'browser, and save it as {folder() / known[0].file}'
    )


def find_file(name: str) -> str:
    """Return the path of a checkpoint, given as a path, a URL, or the name of a file in the folder.

    The prefix ``ema:`` stays.

    Raises:
        FileNotFoundError: there is no such file.
    """
    prefix, file = ('ema:', name[4:]) if name.startswith('ema:') else ('', name)
    if '://' in file or Path(file).expanduser().is_file():
        return name
    inside = folder() / file
    if inside.is_file():
        return f'{prefix}{inside}'
    raise FileNotFoundError(f'{file} does not exist, neither here nor in {folder()}')
