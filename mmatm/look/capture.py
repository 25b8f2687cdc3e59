"""Record offsets and gates with hooks, from a model as it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..models.trunk import Trunk


class LookError(ValueError):
    """A model or an image cannot be looked into; the message says why."""


@dataclass
class Block:
    """What one block samples, for one image.

    Args:
        stage: from 0 on.
        index: in its stage, from 0 on.
        generates: whether the block predicted its offsets, or uses those of an earlier block.
        offset: displacements in tokens, ``[H, W, 2 * G]``: along the width, then along the height.
            Blocks that share offsets share this tensor.
        gate: weights of the samples along the width, of those along the height, and of the token
            itself, ``[C, 3]``. They sum to 1 per channel.
    """

    stage: int
    index: int
    generates: bool
    offset: Tensor
    gate: Tensor = field(default_factory=lambda: torch.empty(0))

    def positions(self) -> tuple[Tensor, Tensor]:
        """The columns read in each token's row, and the rows read in its column, ``[H, W, G]``.

        They are fractional, in tokens, and outside the map below 0 or above ``size - 1``.
        """
        height, width, channels = self.offset.shape
        along_width, along_height = self.offset.split(channels // 2, dim=-1)
        columns = torch.arange(width, device=self.offset.device).view(1, width, 1)
        rows = torch.arange(height, device=self.offset.device).view(height, 1, 1)
        return columns + along_width, rows + along_height


@dataclass
class Capture:
    """What an ATMNet did with one image.

    Args:
        image: what the backbone was given, normalized and padded, ``[3, H, W]``.
        blocks: all blocks that ran, in order.
    """

    image: Tensor = field(default_factory=lambda: torch.empty(0))
    blocks: list[Block] = field(default_factory=list)


def find_trunk(model: nn.Module) -> Trunk:
    """The ATMNet in a model.

    Raises:
        LookError: there is none, or more than one.
    """
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    if len(trunks) != 1:
        raise LookError(f'the model must have one ATMNet backbone, but has {len(trunks) or "none"}')
    return trunks[0]


@contextmanager
def capture(model: nn.Module) -> Iterator[Capture]:
    """Record what the ATMNet in ``model`` samples while the model runs once on one image.

    The model is not changed: hooks read what passes by and are removed at the end.

    Args:
        model: any module that contains one ATMNet, e.g. a detector or a timm model.

    Yields:
        What is captured; it is complete after the forward pass. Tensors stay on their device.

    Raises:
        LookError: the model has no ATMNet, or runs it on several images or several times.

    Example:
        >>> import torch, mmatm
        >>> from mmatm.look import capture
        >>> from mmatm.models import ATMNet
        >>> model = ATMNet('xt').eval()
        >>> with torch.no_grad(), capture(model) as captured:
        ...     _ = model(torch.rand(1, 3, 64, 96))
        >>> columns, rows = captured.blocks[0].positions()
        >>> columns.shape
        torch.Size([16, 24, 32])
    """
    trunk = find_trunk(model)
    captured = Capture()
    module: Any  # to type checkers, the items of nn.ModuleList are plain modules
    hooks = [trunk.stem.register_forward_pre_hook(_Input(captured))]
    for stage, module in enumerate(trunk.stages):
        for index, block in enumerate(module.blocks):
            generates = block.offset is not None
            hooks += [
                block.mixer.register_forward_pre_hook(_Offset(captured, stage, index, generates)),
                block.mixer.gate.register_forward_hook(_Gate(captured)),
            ]
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class _Input:
    captured: Capture

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.captured.blocks:
            raise LookError(
                'the model runs its backbone several times per image, in crops or scales: let it '
                'run once, in mmseg with --cfg-options model.test_cfg.mode=whole'
            )
        if len(inputs[0]) != 1:
            raise LookError(f'the model must be given one image, but was given {len(inputs[0])}')
        self.captured.image = inputs[0][0].detach()


@dataclass
class _Offset:
    captured: Capture
    stage: int
    index: int
    generates: bool

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        blocks = self.captured.blocks
        if self.generates:
            # The operator computes positions in float32 at least.
            offset = inputs[1][0].detach()
            offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
        else:
            offset = blocks[-1].offset
        blocks.append(Block(self.stage, self.index, self.generates, offset))


@dataclass
class _Gate:
    captured: Capture

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.captured.blocks[-1].gate = output[0].detach().unflatten(-1, (-1, 3)).softmax(-1)
