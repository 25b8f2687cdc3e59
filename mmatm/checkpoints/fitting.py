"""Fit the tensors of a checkpoint, in any layout, to an ATMNet."""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.messages import log, shorten
from .names import HEAD, CheckpointError, common_name, is_output_norm, select_names, translate_name


def adapt_state_dict(state_dict: MutableMapping[str, Any], prefix: str, module: nn.Module) -> None:
    """Make ``state_dict`` hold, under ``prefix``, exactly the tensors of ``module``, an ATMNet.

    Names are translated from any layout. Tensors that do not belong to the module are dropped with
    one log line. A classifier has no output norms 0 to 2, so for its checkpoints they keep their
    initial values. A missing head is left for torch to report.

    Raises:
        CheckpointError: a tensor is missing, appears twice, has the wrong shape, or is not dense,
            real and unquantized. The message names it.
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
            f'{len(unusable)} tensors of the checkpoint must be dense, real and unquantized: '
            f'{shorten(unusable)}'
        )
    weights: dict[str, Tensor] = {}
    for name, own_name in selected.items():
        value = found[name]
        if value.shape == (*expected[own_name].shape, 1, 1):  # 1x1 convolution
            value = value.flatten(1)
        weights[own_name] = value

    norms = {n for name in found if is_output_norm(n := common_name(name))}
    missing = sorted(expected.keys() - weights.keys())
    if norms == {'norm3.weight', 'norm3.bias'}:  # a classifier
        fresh = [name for name in missing if is_output_norm(name)]
        missing = [name for name in missing if name not in fresh]
        if fresh and not missing:
            log(f'ATMNet: not in the checkpoint, left as initialized: {shorten(fresh)}')
    missing = [name for name in missing if not translate_name(name).startswith(HEAD)]
    if missing:
        raise CheckpointError(
            f'the checkpoint lacks {len(missing)} of {len(expected)} tensors of this ATMNet: '
            f'{shorten(missing)}; it holds {shorten(found) or "no tensor for it"} '
            '("mmatm weights --check FILE" tells which model a file is of)'
        )
    wrong = [
        f'{name} is {list(value.shape)}, expected {list(expected[name].shape)}'
        for name, value in weights.items()
        if value.shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f'{len(wrong)} tensors of the checkpoint have another shape than those of this ATMNet '
            f'(another arch?): {shorten(wrong)}'
        )
    # Do not log output norms of levels that this model does not return.
    dropped = [n for n in found if n not in selected and not is_output_norm(common_name(n))]
    if dropped:
        log(f'ATMNet: {len(dropped)} tensors are not of this model, dropped: {shorten(dropped)}')
    state_dict.update((prefix + name, value) for name, value in weights.items())


def why_unusable(value: Any, meta: bool = False) -> str:
    """Return why a value cannot be copied into a parameter without loss; empty if it can.

    Args:
        value: an entry of a checkpoint.
        meta: whether the parameter is on torch's ``meta`` device and needs no data.
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
