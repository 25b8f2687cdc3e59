"""Reading checkpoints without executing them, and translating parameter names.

One tensor has up to three names: the published one, timm's (:class:`.ATMNetClassifier`) and mm's
(:class:`.ATMNet`, and a head beside it). mm's is the common one that the others translate to; the
one LayerNorm of a classifier is the backbone's ``norm3`` there.

Importing this module makes mmengine read local, ``http(s)://`` and ``ema:`` checkpoints through
:func:`read_checkpoint`, so that ``init_cfg``, ``load_from``, ``resume`` and ``load_checkpoint`` all
accept the published files and none of them falls back to unpickling arbitrary objects.
"""

import argparse
import os
import pickle
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_local_path
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor, nn

from ..compat import add_safe_globals, safe_globals
from ..files import damage

EMA_PREFIX = 'ema:'
TRUST_FLAG = '--trust-checkpoint'  # of the tools
_MAX_NAMES = 8  # names of tensors that one message lists

# The authors' beginning of a name, and mm's. {i} is a stage, {j} a block.
_TRUNK_NAMES = [
    ('patch_embed.proj.', 'stem.'),
    ('pos_blocks.{i}.proj.', 'stages.{i}.peg.'),
    ('blocks.{i}.{j}.offset_layer.', 'stages.{i}.blocks.{j}.offset.'),
    ('blocks.{i}.{j}.atm.atm_w.', 'stages.{i}.blocks.{j}.mixer.width.'),
    ('blocks.{i}.{j}.atm.atm_h.', 'stages.{i}.blocks.{j}.mixer.height.'),
    ('blocks.{i}.{j}.atm.atm_c.', 'stages.{i}.blocks.{j}.mixer.channel.'),
    ('blocks.{i}.{j}.atm.fusion.', 'stages.{i}.blocks.{j}.mixer.gate.'),
    ('blocks.{i}.{j}.atm.proj.', 'stages.{i}.blocks.{j}.mixer.proj.'),
    ('blocks.{i}.{j}.norm1.', 'stages.{i}.blocks.{j}.norm1.'),
    ('blocks.{i}.{j}.norm2.', 'stages.{i}.blocks.{j}.norm2.'),
    ('blocks.{i}.{j}.mlp.', 'stages.{i}.blocks.{j}.mlp.'),
    ('norm_{i}.', 'norm{i}.'),
]
# The same of a classifier; here the authors and timm agree.
_CLASSIFIER_NAMES = [('norm.', 'norm3.'), ('head.', 'head.fc.')]
_OUTPUT_NORM = re.compile(r'norm\d\.')
_HEAD = 'head.fc.'
# A tensor that every ATMNet has and no other model.
_MIXER = re.compile(
    r'(backbone\.)?(blocks\.0\.0\.atm\.atm_w|stages\.0\.blocks\.0\.mixer\.width)\.weight'
)
_AVERAGED = ('model_ema', 'state_dict_ema')  # of the authors, of timm


def _compile(source: str, target: str) -> tuple[re.Pattern, str]:
    pattern = re.sub(r'\\{(\w)\\}', r'(?P<\1>\\d+)', re.escape(source))
    return re.compile(pattern), re.sub(r'{(\w)}', r'\\g<\1>', target)


_TO_MM = [_compile(theirs, mms) for theirs, mms in _TRUNK_NAMES + _CLASSIFIER_NAMES]
_TRUNK_TO_PUBLISHED = [_compile(mms, theirs) for theirs, mms in _TRUNK_NAMES]
_CLASSIFIER_FROM_MM = [_compile(mms, theirs) for theirs, mms in _CLASSIFIER_NAMES]
# Stored with the last block of the stage before it, and with the stage it leads to.
_PUBLISHED_DOWNSAMPLE = re.compile(r'blocks\.(\d+)\.\d+\.downsample\.proj\.')
_DOWNSAMPLE = re.compile(r'stages\.(\d+)\.downsample\.')


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read safely, or does not hold the tensors of the model."""


_trusted = False


def trust_checkpoints(trusted: bool = True) -> None:
    """Let :func:`read_checkpoint` unpickle any object: a checkpoint can then execute code.

    For files from a source that you trust; it holds for all files that this process reads.
    """
    global _trusted
    _trusted = trusted


def read_checkpoint(
    filename: str | os.PathLike, map_location: Any = 'cpu', ema: bool = False
) -> dict[str, Any]:
    """Read a checkpoint file, ``.safetensors`` or of torch, the latter with ``weights_only=True``
    (but see :func:`trust_checkpoints`).

    The weights of an ATMNet are returned in the mm layout, ``{'state_dict': {'backbone.NAME':
    tensor, 'head.fc.weight': tensor, ...}}``, whether the file is the authors' (``model``), timm's
    (``state_dict`` or nothing around the tensors) or mm's. Files of other models stay as they are.

    Args:
        filename: local path or ``http(s)://`` address.
        map_location: see :func:`torch.load`.
        ema: take the averaged weights: the authors' ``model_ema``, timm's ``state_dict_ema``. Of a
            run with mmengine's ``EMAHook`` ``state_dict`` has them, with or without ``ema``.

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
        if reason := damage(filename):
            raise CheckpointError(f'checkpoint {filename} is damaged: {reason}')
    try:
        if filename.endswith('.safetensors'):
            device = 'cpu' if map_location is None or callable(map_location) else map_location
            with get_local_path(filename) as path:
                checkpoint = load_file(path, device=str(device))
        else:
            with safe_globals(_safe_globals()):
                if remote:
                    checkpoint = torch.hub.load_state_dict_from_url(
                        filename, map_location=map_location, weights_only=not _trusted
                    )
                else:
                    checkpoint = torch.load(
                        filename, map_location=map_location, weights_only=not _trusted
                    )
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        what = f'it refers to {refused[1]}' if refused else 'its pickle cannot be parsed'
        raise CheckpointError(
            f'checkpoint {filename} was not loaded: it is damaged or holds objects other than '
            f'tensors and plain data, which could execute code ({what}). If you trust where it '
            f'comes from, pass {TRUST_FLAG} to the tool, or call mmatm.models.trust_checkpoints()'
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
        # mmengine would execute this text when it resumes.
        checkpoint['meta'] = {key: value for key, value in meta.items() if key != 'config'}
    return _to_mm_layout(checkpoint, filename, ema)


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


# For every reader of torch files, so that timm's checkpoint_path takes mmengine's as well.
add_safe_globals(_safe_globals())


def _to_mm_layout(checkpoint: dict[str, Any], filename: str, ema: bool) -> dict[str, Any]:
    # EMAHook swaps: what mmengine calls ema_state_dict are then the weights before averaging.
    averaged = [key for key in ('ema_state_dict', *_AVERAGED) if _is_mapping(checkpoint.get(key))]
    if ema and not averaged:
        raise CheckpointError(
            f'checkpoint {filename} has no averaged weights: expected model_ema, state_dict_ema or '
            f'ema_state_dict beside {_names(sorted(map(str, checkpoint)))}'
        )
    if ema and averaged[0] in _AVERAGED:
        checkpoint = {'state_dict': checkpoint[averaged[0]]}
    key = next((k for k in ('state_dict', 'model') if _is_mapping(checkpoint.get(k))), None)
    weights = {str(name): value for name, value in (checkpoint[key] if key else checkpoint).items()}
    weights = clean_state_dict(weights)  # of the prefixes of torch's wrappers
    if not is_atmnet(weights):
        return checkpoint
    if not _is_whole_mm_model(weights):
        weights = {
            own if own.startswith(_HEAD) else f'backbone.{own}': weights[name]
            for name, own in _translate(weights).items()
        }
    elif key == 'state_dict':
        return checkpoint
    rest = {k: v for k, v in checkpoint.items() if k != key} if key else {}
    return {**rest, 'state_dict': weights}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_whole_mm_model(names: Iterable[str]) -> bool:
    return any(name.startswith('backbone.') for name in names)


def is_atmnet(names: Iterable[str]) -> bool:
    """Whether these are names of an ATMNet's tensors, in any of the layouts."""
    return any(_MIXER.fullmatch(name) for name in names)


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
    """The name in mm of a parameter of the authors' or timm's models; other names unchanged.

    ``backbone.`` before it is left out. The head's names are mmpretrain's, ``head.fc.weight``.
    """
    if name.startswith(_HEAD):
        return name
    if match := _PUBLISHED_DOWNSAMPLE.match(name):
        return f'stages.{int(match[1]) + 1}.downsample.{name[match.end() :]}'
    return _rename(name, _TO_MM)


def timm_name(name: str) -> str:
    """The inverse of :func:`translate_name` for timm's names."""
    return _rename(name, _CLASSIFIER_FROM_MM)


def published_name(name: str, depths: Sequence[int], classifier: bool) -> str:
    """The inverse of :func:`translate_name` for the authors' names.

    Args:
        name: mm's name, without ``backbone.``.
        depths: blocks of every stage.
        classifier: whether the model is a classifier, or a backbone for dense prediction.
    """
    if match := _DOWNSAMPLE.match(name):
        stage = int(match[1]) - 1
        return f'blocks.{stage}.{depths[stage] - 1}.downsample.proj.{name[match.end() :]}'
    return _rename(name, (_CLASSIFIER_FROM_MM if classifier else []) + _TRUNK_TO_PUBLISHED)


def _rename(name: str, table: Iterable[tuple[re.Pattern, str]]) -> str:
    for pattern, replacement in table:
        if match := pattern.match(name):
            return match.expand(replacement) + name[match.end() :]
    return name


def select_names(names: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """For each of ``names`` that is one of ``wanted`` in another layout, the wanted name.

    Both may be in any layout; of a whole mm model the neck and other heads are never wanted.

    Raises:
        CheckpointError: two of ``names`` are one tensor's in different layouts.
    """
    own = {translate_name(name): name for name in wanted}
    names = list(names)
    if _is_whole_mm_model(names):
        names = [name for name in names if name.startswith(('backbone.', _HEAD))]
    return {name: own[common] for name, common in _translate(names).items() if common in own}


def _translate(names: Iterable[str]) -> dict[str, str]:
    """Each of ``names`` with its common one; two of one tensor are a :class:`CheckpointError`."""
    translated: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name in names:
        translated[name] = own = _common(name)
        if owners.setdefault(own, name) != name:
            raise CheckpointError(
                f'the checkpoint holds {own} twice, in two layouts: as {owners[own]} and as {name}'
            )
    return translated


def _common(name: str) -> str:
    return translate_name(name.removeprefix('backbone.'))


def adapt_state_dict(state_dict: MutableMapping[str, Any], prefix: str, module: nn.Module) -> None:
    """Make ``state_dict`` hold, under ``prefix``, exactly the tensors of the ATMNet ``module``.

    Names are translated from any layout, tensors that are not the module's are dropped with one log
    line. The output norms 0 to 2, which a classifier does not have, keep their initial values if
    the checkpoint is a classifier's. A missing head is left for torch to report.

    Raises:
        CheckpointError: a tensor is missing, has another shape, is there twice or holds no plain
            real numbers; the message names it.
    """
    expected = dict(module.named_parameters()) | dict(module.named_buffers())
    found = {k[len(prefix) :]: state_dict.pop(k) for k in list(state_dict) if k.startswith(prefix)}
    selected = select_names(found, expected)
    unusable = [
        f'{own_name} {reason}'
        for name, own_name in selected.items()
        if (reason := why_unusable(found[name], expected[own_name].is_meta))
    ]
    if unusable:
        raise CheckpointError(
            f'{len(unusable)} tensors of the checkpoint hold no plain real numbers: '
            f'{_names(unusable)}'
        )
    weights: dict[str, Tensor] = {}
    for name, own_name in selected.items():
        value = found[name]
        if value.shape == (*expected[own_name].shape, 1, 1):  # 1x1 convolution
            value = value.flatten(1)
        weights[own_name] = value

    norms = {n for name in found if _OUTPUT_NORM.match(n := _common(name))}
    missing = sorted(expected.keys() - weights.keys())
    if norms == {'norm3.weight', 'norm3.bias'}:  # a classifier
        fresh = [name for name in missing if _OUTPUT_NORM.match(name)]
        missing = [name for name in missing if name not in fresh]
        if fresh and not missing:
            _log(f'not in the checkpoint, left as initialised: {_names(fresh)}')
    missing = [name for name in missing if not translate_name(name).startswith(_HEAD)]
    if missing:
        raise CheckpointError(
            f'the checkpoint lacks {len(missing)} of {len(expected)} tensors of this ATMNet: '
            f'{_names(missing)}; it holds {_names(found) or "no tensor for it"}'
        )
    wrong = [
        f'{name} is {list(value.shape)}, expected {list(expected[name].shape)}'
        for name, value in weights.items()
        if value.shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f'{len(wrong)} tensors of the checkpoint have another shape than those of this ATMNet '
            f'(another arch?): {_names(wrong)}'
        )
    # Output norms of levels that this model does not have are expected, and not worth a line.
    dropped = [n for n in found if n not in selected and not _OUTPUT_NORM.match(_common(n))]
    if dropped:
        _log(f'{len(dropped)} tensors are not of this model, dropped: {_names(dropped)}')
    state_dict.update((prefix + name, value) for name, value in weights.items())


def why_unusable(value: Any, meta: bool = False) -> str:
    """Why it cannot be copied into a parameter without an error or a loss; empty if it can.

    Args:
        value: what a checkpoint holds.
        meta: whether the parameter is itself on torch's ``meta`` device, and needs no data.
    """
    if not isinstance(value, Tensor):
        return f'is not a tensor, but a {type(value).__name__}'
    if value.layout != torch.strided:
        return f'is {str(value.layout).removeprefix("torch.")}'
    reasons = {
        'has a shape but no data': value.is_meta and not meta,
        'is complex': value.is_complex(),
        'is quantized': value.is_quantized,
    }
    return next((reason for reason, applies in reasons.items() if applies), '')


def _names(names: Any) -> str:
    names = list(names)
    more = f' and {len(names) - _MAX_NAMES} more' if len(names) > _MAX_NAMES else ''
    return ', '.join(names[:_MAX_NAMES]) + more


def _log(message: str) -> None:
    print_log(f'ATMNet: {message}', logger='current')
