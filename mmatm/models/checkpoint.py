"""Reading checkpoints without executing them, and translating the published parameter names.

Importing this module makes mmengine read local, ``http(s)://`` and ``ema:`` checkpoints through
:func:`read_checkpoint`, so that ``init_cfg``, ``load_from``, ``resume`` and ``load_checkpoint`` all
accept the published files and none of them falls back to unpickling arbitrary objects.
"""

import argparse
import os
import pickle
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..compat import safe_globals

EMA_PREFIX = 'ema:'
_MAX_NAMES = 8  # names of tensors that one message lists

# Published name (regular expression) -> name here. Each name is matched from its start.
_RENAMES = [
    (r'patch_embed\.proj\.', r'stem.'),
    (r'pos_blocks\.(\d+)\.proj\.', r'stages.\1.peg.'),
    (r'blocks\.(\d+)\.(\d+)\.offset_layer\.', r'stages.\1.blocks.\2.offset.'),
    (r'blocks\.(\d+)\.(\d+)\.atm\.atm_w\.', r'stages.\1.blocks.\2.mixer.width.'),
    (r'blocks\.(\d+)\.(\d+)\.atm\.atm_h\.', r'stages.\1.blocks.\2.mixer.height.'),
    (r'blocks\.(\d+)\.(\d+)\.atm\.atm_c\.', r'stages.\1.blocks.\2.mixer.channel.'),
    (r'blocks\.(\d+)\.(\d+)\.atm\.fusion\.', r'stages.\1.blocks.\2.mixer.gate.'),
    (r'blocks\.(\d+)\.(\d+)\.atm\.proj\.', r'stages.\1.blocks.\2.mixer.proj.'),
    (r'blocks\.(\d+)\.(\d+)\.(norm1|norm2|mlp)\.', r'stages.\1.blocks.\2.\3.'),
    (r'norm_(\d)\.', r'norm\1.'),
]
_DOWNSAMPLE = re.compile(r'blocks\.(\d+)\.\d+\.downsample\.proj\.')
_OUTPUT_NORM = re.compile(r'norm\d\.')


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read safely, or does not hold the tensors of the model."""


def read_checkpoint(
    filename: str | os.PathLike, map_location: Any = 'cpu', ema: bool = False
) -> dict[str, Any]:
    """Read a checkpoint file with ``weights_only=True``.

    A published ImageNet file, ``{'model': ..., 'model_ema': ..., ...}``, is returned in the mm
    layout ``{'state_dict': {'backbone.NAME': tensor}}``; every other file as it is.

    Args:
        filename: local path or ``http(s)://`` address.
        map_location: see :func:`torch.load`.
        ema: take the averaged weights, ``model_ema`` or mmengine's ``ema_state_dict``.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is damaged, holds objects other than tensors and plain data, or
            has no averaged weights although ``ema`` asks for them.
    """
    filename = os.fspath(filename)
    remote = filename.startswith(('http://', 'https://'))
    if not remote:
        filename = os.path.expanduser(filename)
        if not os.path.isfile(filename):
            raise FileNotFoundError(f'checkpoint {filename} does not exist')
    try:
        with safe_globals(_safe_globals()):
            if remote:
                checkpoint = torch.hub.load_state_dict_from_url(
                    filename, map_location=map_location, weights_only=True
                )
            else:
                checkpoint = torch.load(filename, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        what = f'it refers to {refused[1]}' if refused else 'its pickle cannot be parsed'
        raise CheckpointError(
            f'checkpoint {filename} was not loaded: it is damaged or holds objects other than '
            f'tensors and plain data, which could execute code ({what})'
        ) from None
    except (RuntimeError, OSError, EOFError, LookupError, TypeError, ValueError) as error:
        reason = str(error).split('\n')[0] or type(error).__name__
        raise CheckpointError(f'checkpoint {filename} is damaged or incomplete: {reason}') from None
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f'checkpoint {filename} must hold a dict, but holds a {type(checkpoint).__name__}'
        )
    return _to_mm_layout(dict(checkpoint), filename, ema)


def _safe_globals() -> list:
    """What mm and ImageNet training scripts store beside tensors; none of it executes anything."""
    dtypes = [type(np.dtype(t)) for t in (np.float64, np.float32, np.int64, np.int32, np.uint32)]
    arrays = [  # numpy 2 and 1 write different module names
        (value.__reduce__()[0], f'{module}.multiarray.{name}')
        for name, value in (('_reconstruct', np.array(0)), ('scalar', np.float64(0)))
        for module in ('numpy._core', 'numpy.core')
    ]
    statistic = (_history_statistic, 'builtins.getattr')
    return [argparse.Namespace, HistoryBuffer, statistic, np.ndarray, np.dtype, *arrays, *dtypes]


def _history_statistic(owner: Any, name: str) -> Any:
    """In place of getattr, by which a pickled HistoryBuffer refers to its own four methods."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {owner}.{name}')
    return getattr(HistoryBuffer, name)


def _to_mm_layout(checkpoint: dict[str, Any], filename: str, ema: bool) -> dict[str, Any]:
    imagenet = 'state_dict' not in checkpoint and isinstance(checkpoint.get('model'), Mapping)
    if ema:
        key = 'model_ema' if imagenet else 'ema_state_dict'
        if not isinstance(checkpoint.get(key), Mapping):
            raise CheckpointError(
                f'checkpoint {filename} has no averaged weights: expected {key!r} beside '
                f'{sorted(map(str, checkpoint))[:_MAX_NAMES]}'
            )
        weights = checkpoint[key]
    elif imagenet:
        weights = checkpoint['model']
    else:
        return checkpoint
    weights = {re.sub(r'^module\.', '', name): tensor for name, tensor in weights.items()}
    prefix = 'backbone.' if imagenet else ''
    return {'state_dict': {prefix + name: tensor for name, tensor in weights.items()}}


@CheckpointLoader.register_scheme(prefixes=('', 'http://', 'https://', EMA_PREFIX), force=True)
def load_from_mmatm(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Mmengine's hook to :func:`read_checkpoint`; ``ema:FILE`` takes the averaged weights."""
    ema = filename.startswith(EMA_PREFIX)
    filename = filename[len(EMA_PREFIX) :] if ema else filename
    remote = filename.startswith(('http://', 'https://'))
    if remote and get_rank() != 0:  # rank 0 downloads, the others then read its copy
        barrier()
    checkpoint = read_checkpoint(filename, map_location, ema)
    if remote and get_rank() == 0:
        barrier()
    return checkpoint


def translate_name(name: str) -> str:
    """The name here of a published backbone or classifier parameter; other names unchanged."""
    if match := _DOWNSAMPLE.match(name):  # stored with the stage before it
        return f'stages.{int(match[1]) + 1}.downsample.{name[match.end() :]}'
    for pattern, replacement in _RENAMES:
        name, count = re.subn(f'^{pattern}', replacement, name)
        if count:
            break
    return name


def adapt_state_dict(state_dict: MutableMapping[str, Any], prefix: str, module: nn.Module) -> None:
    """Make ``state_dict`` hold, under ``prefix``, exactly the tensors of the backbone ``module``.

    Published names are translated, tensors that are not the backbone's are dropped with one log
    line. Output norms that an ImageNet file does not have keep their initial values.

    Raises:
        CheckpointError: a tensor is missing or has another shape; the message names it.
    """
    expected = dict(module.named_parameters()) | dict(module.named_buffers())
    found = {k[len(prefix) :]: state_dict.pop(k) for k in list(state_dict) if k.startswith(prefix)}
    dropped: list[str] = []
    if not prefix and any(name.startswith('backbone.') for name in found):  # a whole mm model
        dropped = [name for name in found if not name.startswith('backbone.')]
        found = {k.removeprefix('backbone.'): v for k, v in found.items() if k not in dropped}

    weights: dict[str, Any] = {}
    for name, value in found.items():
        own_name = translate_name(name)
        own = expected.get(own_name)
        if own is None:
            if not _OUTPUT_NORM.match(own_name):  # of a level that this backbone does not return
                dropped.append(name)
            continue
        if isinstance(value, Tensor) and value.shape == (*own.shape, 1, 1):  # 1x1 convolution
            value = value.flatten(1)
        weights[own_name] = value

    missing = sorted(expected.keys() - weights.keys())
    if not any(_OUTPUT_NORM.match(translate_name(name)) for name in found):
        fresh = [name for name in missing if _OUTPUT_NORM.match(name)]
        missing = [name for name in missing if name not in fresh]
        if fresh and not missing:
            _log(f'not in the checkpoint, left as initialised: {_names(fresh)}')
    if missing:
        raise CheckpointError(
            f'the checkpoint lacks {len(missing)} of {len(expected)} tensors of this ATMNet '
            f'backbone: {_names(missing)}; it holds {_names(found) or "no tensor for it"}'
        )
    wrong = [
        f'{name} is {_shape(value)}, expected {_shape(expected[name])}'
        for name, value in weights.items()
        if _shape(value) != _shape(expected[name])
    ]
    if wrong:
        raise CheckpointError(
            f'{len(wrong)} tensors of the checkpoint have another shape than this ATMNet backbone '
            f'(another arch?): {_names(wrong)}'
        )
    if dropped:
        _log(f"{len(dropped)} tensors are not the backbone's, dropped: {_names(dropped)}")
    state_dict.update((prefix + name, value) for name, value in weights.items())


def _shape(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f'a {type(value).__name__}'


def _names(names: Any) -> str:
    names = list(names)
    more = f' and {len(names) - _MAX_NAMES} more' if len(names) > _MAX_NAMES else ''
    return ', '.join(names[:_MAX_NAMES]) + more


def _log(message: str) -> None:
    print_log(f'ATMNet: {message}', logger='current')
