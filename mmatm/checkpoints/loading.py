"""Safe reading where mmengine loads checkpoints."""

from typing import Any

from mmengine.dist import barrier, get_rank
from mmengine.model import update_init_info
from mmengine.runner import CheckpointLoader
from torch import nn

from .reading import download, is_remote, read_checkpoint

EMA_PREFIX = 'ema:'
_EVERYWHERE = ('', 'http://', 'https://')


@CheckpointLoader.register_scheme(prefixes=EMA_PREFIX, force=True)
def load_ema(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Mmengine's loader of ``ema:FILE``: the EMA weights of a checkpoint."""
    return load_from_any(filename.removeprefix(EMA_PREFIX), map_location, ema=True)


def load_from_any(filename: str, map_location: Any = None, ema: bool = False) -> dict[str, Any]:
    """:func:`.read_checkpoint` in every process of a job; rank 0 downloads for all of them."""
    if is_remote(filename):
        try:
            if get_rank() == 0:
                download(filename)
        finally:  # where rank 0 fails, the others must not wait for it
            barrier()
    return read_checkpoint(filename, map_location, ema)


def install_reader() -> None:
    """Let mmengine read every local and ``http(s)`` checkpoint by :func:`.read_checkpoint`.

    ``load_from``, ``resume`` and ``mmengine.runner.load_checkpoint`` then take published files,
    and none of them falls back to unpickling arbitrary objects. It holds for the whole process;
    the tools of mmatm call it, importing mmatm does not.
    """
    CheckpointLoader.register_scheme(prefixes=_EVERYWHERE, force=True)(load_from_any)


def load_pretrained(
    module: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    map_location: Any = 'cpu',
    ema: bool = False,
) -> None:
    """Initialise ``module`` from a file, as ``init_cfg=dict(type='Pretrained', ...)`` asks.

    Args:
        module: an ATMNet.
        checkpoint: local path or address; ``ema:`` before it is the same as ``ema=True``.
        prefix: beginning of the names in the file that belong to ``module``; None finds it.
        map_location: see :func:`torch.load`.
        ema: take the EMA weights.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: it cannot be read, or does not fit.
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
