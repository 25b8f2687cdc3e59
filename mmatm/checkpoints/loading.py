"""Safe checkpoint loading in mmengine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dist import barrier, get_rank
from mmengine.model import update_init_info
from mmengine.runner import CheckpointLoader
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..utils.messages import shorten
from .names import CheckpointError
from .reading import download, is_remote, read_checkpoint

EMA_PREFIX = 'ema:'
_EVERYWHERE = ('', 'http://', 'https://')


@CheckpointLoader.register_scheme(prefixes=EMA_PREFIX, force=True)
def load_ema(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load the EMA weights of a checkpoint; mmengine's loader for ``ema:FILE``."""
    return load_from_any(filename.removeprefix(EMA_PREFIX), map_location, ema=True)


def load_from_any(filename: str, map_location: Any = None, ema: bool = False) -> dict[str, Any]:
    """Call :func:`.read_checkpoint` in every process; rank 0 downloads the file for all of them."""
    if is_remote(filename):
        try:
            if get_rank() == 0:
                download(filename)
        finally:  # if rank 0 fails, the others must not wait for it
            barrier()
    return read_checkpoint(filename, map_location, ema)


def install_reader() -> None:
    """Make mmengine read every local and ``http(s)`` checkpoint with :func:`.read_checkpoint`.

    ``load_from``, ``resume`` and ``mmengine.runner.load_checkpoint`` then accept published files
    and never unpickle arbitrary objects. This affects the whole process. The tools of mmatm call
    it; ``import mmatm`` does not.
    """
    CheckpointLoader.register_scheme(prefixes=_EVERYWHERE, force=True)(load_from_any)


@contextmanager
def reading_safely() -> Iterator[None]:
    """Let mmengine read checkpoints as after :func:`install_reader`, inside the block only."""
    schemes = CheckpointLoader._schemes
    CheckpointLoader._schemes = dict(schemes)
    try:
        install_reader()
        yield
    finally:
        CheckpointLoader._schemes = schemes


def load_pretrained(
    module: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    map_location: Any = 'cpu',
    ema: bool = False,
) -> None:
    """Initialize ``module`` from a file, for ``init_cfg=dict(type='Pretrained', ...)``.

    Args:
        module: an ATMNet.
        checkpoint: path or URL; the prefix ``ema:`` means ``ema=True``.
        prefix: prefix in the file of the names that belong to ``module``; found if None.
        map_location: see :func:`torch.load`.
        ema: load the EMA weights.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file cannot be read or does not fit.
    """
    ema = ema or checkpoint.startswith(EMA_PREFIX)
    content = load_from_any(checkpoint.removeprefix(EMA_PREFIX), map_location, ema)
    weights = content.get('state_dict', content)
    if prefix is not None:
        prefix = prefix.rstrip('.') + '.'
        weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    module.load_state_dict(weights, strict=False)
    if hasattr(module, '_params_init_info'):
        update_init_info(module, init_info=f'load from {checkpoint}')


def load_whole_model(model: nn.Module, checkpoint: str) -> dict[str, Any]:
    """Load a checkpoint that leaves no parameter random, and return what it holds.

    mmengine only logs which ones it leaves. Auxiliary heads may stay random: only training needs
    them.

    Args:
        model: a detector, segmentor or classifier, maybe wrapped for several processes or for
            test-time augmentation.
        checkpoint: path or URL, which is read safely; ``ema:FILE`` for the EMA weights in it.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file cannot be read, lacks parameters or has some of another shape.
    """
    while isinstance(inner := getattr(model, 'module', None), nn.Module):
        model = inner
    with reading_safely():
        content = CheckpointLoader.load_checkpoint(checkpoint, 'cpu', logger='silent')
    weights = content.get('state_dict', content)
    consume_prefix_in_state_dict_if_present(weights, 'module.')
    try:
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:  # torch writes a headline, then one line per wrong shape
        headline, *wrong = str(error).splitlines()
        reason = shorten(line.strip('\t.') for line in wrong) or headline
        raise CheckpointError(
            f'checkpoint {checkpoint} does not fit the config: {reason}'
        ) from None
    # Buffers are not compared: some models compute theirs.
    parameters = dict(model.named_parameters())
    missing = [n for n in missing if n in parameters and not n.startswith('auxiliary_head.')]
    if missing:
        raise CheckpointError(
            f'checkpoint {checkpoint} does not fit the config: of {len(parameters)} parameters of '
            f'the model it lacks {shorten(missing)}'
        )
    return content
