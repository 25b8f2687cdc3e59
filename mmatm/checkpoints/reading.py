"""Reading checkpoint files without executing what they hold."""

import argparse
import os
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict

from ..utils.compat import safe_globals
from ..utils.files import damage
from ..utils.messages import shorten
from .names import BACKBONE, HEAD, CheckpointError, is_atmnet, is_whole_mm_model, translate

TRUST_FLAG = '--trust-checkpoint'  # of the tools
_EMA_KEYS = ('model_ema', 'state_dict_ema')  # published, timm's
_HISTORY_BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'

_trusted = False


def trust_checkpoints(trusted: bool = True) -> None:
    """Let :func:`read_checkpoint` unpickle any object: a checkpoint can then execute code.

    Use it only for files whose source you trust. It holds for all files that this process reads.
    """
    global _trusted
    _trusted = trusted


def read_checkpoint(
    filename: str | os.PathLike, map_location: Any = 'cpu', ema: bool = False
) -> dict[str, Any]:
    """Read a checkpoint, ``.safetensors`` or written by torch, with ``weights_only=True``.

    :func:`trust_checkpoints` allows more. The weights of an ATMNet are returned in the mm layout,
    ``{'state_dict': {'backbone.NAME': tensor, 'head.fc.weight': tensor, ...}}``, whether the file
    is a published one (``model``), timm's (``state_dict``, or tensors alone) or mm's. Files of
    other models are returned as they are.

    Args:
        filename: local path or ``http(s)://`` address, which is downloaded once into torch's hub
            folder.
        map_location: see :func:`torch.load`.
        ema: take the EMA weights: ``model_ema`` of a published file, ``state_dict_ema`` of timm's.
            A run with mmengine's ``EMAHook`` has them in ``state_dict``, with or without ``ema``.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file cannot be downloaded, is damaged, holds objects other than tensors
            and plain data, or has no EMA weights although ``ema`` asks for them.
    """
    filename = os.fspath(filename)
    path = download(filename) if is_remote(filename) else os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    if reason := damage(path):
        raise CheckpointError(f'checkpoint {path} is damaged: {reason}')
    try:
        if path.endswith('.safetensors'):
            device = 'cpu' if map_location is None or callable(map_location) else map_location
            checkpoint = load_file(path, device=str(device))
        else:
            with safe_globals(_safe_globals()):
                checkpoint = torch.load(path, map_location=map_location, weights_only=not _trusted)
    except pickle.UnpicklingError as error:
        rejected = re.search(r'GLOBAL (\S+)', str(error))
        what = f'it refers to {rejected[1]}' if rejected else 'its pickle cannot be parsed'
        raise CheckpointError(
            f'checkpoint {filename} was not loaded: it is damaged or holds objects other than '
            f'tensors and plain data, which could execute code ({what}). If you trust its source, '
            f'pass {TRUST_FLAG} to the tool, or call mmatm.checkpoints.trust_checkpoints()'
        ) from None
    except Exception as error:  # torch raises nearly all there are for bytes that do not fit
        reason = str(error).split('\n')[0] or type(error).__name__
        raise CheckpointError(f'checkpoint {filename} is damaged or incomplete: {reason}') from None
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f'checkpoint {filename} must hold a dict, but holds a {type(checkpoint).__name__}'
        )
    checkpoint = dict(checkpoint)
    if not _trusted and isinstance(meta := checkpoint.get('meta'), Mapping) and 'config' in meta:
        # mmengine executes this text when it resumes.
        checkpoint['meta'] = {key: value for key, value in meta.items() if key != 'config'}
    return _to_mm_layout(checkpoint, filename, ema)


def is_remote(filename: str) -> bool:
    """Whether this is the address of a file on the web."""
    return filename.startswith(('http://', 'https://'))


def download(address: str) -> str:
    """The local copy of a file on the web, in the folder where ``torch.hub`` keeps checkpoints.

    Raises:
        CheckpointError: the file cannot be downloaded.
    """
    file = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(address).path).name)
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(file), progress=False)
        except Exception as error:  # of the network, of HTTP, of the disk
            raise CheckpointError(f'checkpoint {address} cannot be downloaded: {error}') from None
    return str(file)


class _HistoryBuffer:
    """Stands for mmengine's class of that name where mmengine is not imported."""

    min = max = current = mean = None


def _safe_globals() -> list:
    """What mm and ImageNet training scripts store beside tensors; none of it executes anything."""
    mm = sys.modules.get('mmengine.logging')
    history = _HistoryBuffer if mm is None else mm.HistoryBuffer

    def statistic(owner: Any, name: str) -> Any:
        """In place of getattr, by which a pickled HistoryBuffer refers to its own four methods."""
        if owner is not history or name not in ('min', 'max', 'current', 'mean'):
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {owner}.{name}')
        return getattr(history, name)

    dtypes = [type(np.dtype(t)) for t in (np.float64, np.float32, np.int64, np.int32, np.uint32)]
    arrays = [  # numpy 2 and 1 write different module names
        (value.__reduce__()[0], f'{module}.multiarray.{name}')
        for name, value in (('_reconstruct', np.array(0)), ('scalar', np.float64(0)))
        for module in ('numpy._core', 'numpy.core')
    ]
    named = [(history, _HISTORY_BUFFER), (statistic, 'builtins.getattr')]
    return [argparse.Namespace, *named, np.ndarray, np.dtype, *arrays, *dtypes]


def _to_mm_layout(checkpoint: dict[str, Any], filename: str, ema: bool) -> dict[str, Any]:
    # EMAHook swaps: what mmengine calls ema_state_dict are then the weights before averaging.
    averaged = [key for key in ('ema_state_dict', *_EMA_KEYS) if _is_mapping(checkpoint.get(key))]
    if ema and not averaged:
        raise CheckpointError(
            f'checkpoint {filename} has no EMA weights: expected model_ema, state_dict_ema or '
            f'ema_state_dict, but it holds {shorten(sorted(map(str, checkpoint)))}'
        )
    if ema and averaged[0] in _EMA_KEYS:
        checkpoint = {'state_dict': checkpoint[averaged[0]]}
    key = next((k for k in ('state_dict', 'model') if _is_mapping(checkpoint.get(k))), None)
    weights = {str(name): value for name, value in (checkpoint[key] if key else checkpoint).items()}
    weights = clean_state_dict(weights)  # of the prefixes of torch's wrappers
    if not is_atmnet(weights):
        return checkpoint
    if not is_whole_mm_model(weights):
        weights = {
            own if own.startswith(HEAD) else BACKBONE + own: weights[name]
            for name, own in translate(weights).items()
        }
    elif key == 'state_dict':
        return checkpoint
    rest = {k: v for k, v in checkpoint.items() if k != key} if key else {}
    return {**rest, 'state_dict': weights}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
