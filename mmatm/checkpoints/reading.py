"""Read checkpoint files without executing code in them."""

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

TRUST_FLAG = '--trust-checkpoint'  # flag of the tools
_EMA_KEYS = ('model_ema', 'state_dict_ema')  # published, timm
_HISTORY_BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'

_trusted = False


def trust_checkpoints(trusted: bool = True) -> None:
    """Let :func:`read_checkpoint` unpickle any object, so that checkpoints can execute code.

    Use it only for files from sources you trust. It applies to all files that this process reads.
    """
    global _trusted
    _trusted = trusted


def read_checkpoint(
    filename: str | os.PathLike, map_location: Any = 'cpu', ema: bool = False
) -> dict[str, Any]:
    """Read a checkpoint, ``.safetensors`` or written by torch, with ``weights_only=True``.

    :func:`trust_checkpoints` lifts that restriction. The weights of an ATMNet are returned in mm's
    layout, ``{'state_dict': {'backbone.NAME': tensor, 'head.fc.weight': tensor, ...}}``, whether
    the file is published (``model``), timm's (``state_dict``, or only tensors) or mm's. Files of
    other models are returned unchanged.

    Args:
        filename: path or ``http(s)://`` URL. Files are downloaded once, to torch's hub folder.
        map_location: see :func:`torch.load`.
        ema: return the EMA weights: ``model_ema`` in published files, ``state_dict_ema`` in timm's.
            mmengine's ``EMAHook`` stores them in ``state_dict``, so there ``ema`` changes nothing.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file cannot be downloaded, is damaged, holds anything but tensors and
            plain data, or has no EMA weights and ``ema`` is True.
    """
    filename = os.fspath(filename)
    path = download(filename) if is_remote(filename) else os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    if path.endswith('.onnx'):
        raise CheckpointError(
            f'{path} is an exported model, which "mmatm onnx-demo" runs: expected the checkpoint '
            'that it was made from'
        )
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
    except Exception as error:  # torch raises many types for invalid bytes
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
    """Whether ``filename`` is a URL."""
    return filename.startswith(('http://', 'https://'))


def download(address: str) -> str:
    """Download a file to the checkpoint folder of ``torch.hub`` and return the path of the copy.

    Raises:
        CheckpointError: the file cannot be downloaded.
    """
    file = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(address).path).name)
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(file), progress=False)
        except Exception as error:  # network, HTTP or disk
            raise CheckpointError(f'checkpoint {address} cannot be downloaded: {error}') from None
    return str(file)


class _HistoryBuffer:
    """Placeholder for mmengine's ``HistoryBuffer`` if mmengine is not imported."""

    min = max = current = mean = None


def _safe_globals() -> list:
    """What mm and ImageNet training scripts store with the tensors; none of it executes code."""
    mm = sys.modules.get('mmengine.logging')
    history = _HistoryBuffer if mm is None else mm.HistoryBuffer

    def statistic(owner: Any, name: str) -> Any:
        """Replace getattr, with which a pickled HistoryBuffer refers to its own four methods."""
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
    # EMAHook swaps the two: mmengine's ema_state_dict holds the weights that are not averaged.
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
    weights = clean_state_dict(weights)  # removes the prefixes of torch's wrappers
    if not is_atmnet(weights):
        return checkpoint
    if not is_whole_mm_model(weights):
        weights = {
            own if own.startswith(HEAD) else BACKBONE + own: weights[name]
            for name, own in translate(weights).items()
        }
    elif key == 'state_dict' and weights.keys() == checkpoint[key].keys():
        return checkpoint
    rest = {k: v for k, v in checkpoint.items() if k != key} if key else {}
    return {**rest, 'state_dict': weights}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
