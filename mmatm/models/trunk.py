"""ATMNet without a head: architecture table, blocks, stages and the trunk."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..utils.compat import fix_sizes
from .linear import Linear
from .mixer import ActiveTokenMixer
from .mlp import ChannelMlp

NUM_STAGES = 4
MIN_SIZE = 3  # pixels: fewer do not fill the 7 x 7 kernel of the stem, padded by 2 on each side

# Per stage: blocks, channels, MLP expansion, channels that share one offset. ``interval``: every
# how many blocks new offsets are generated. Source: arXiv 2203.06108, appendix, and its code.
_NARROW = dict(widths=(64, 128, 320, 512), shares=(2, 4, 4, 8))
ARCHS: dict[str, dict[str, Any]] = {
    'xt': dict(depths=(2, 2, 4, 2), mlp_ratios=(4, 4, 4, 4), interval=2, **_NARROW),
    't': dict(depths=(2, 3, 10, 3), mlp_ratios=(4, 4, 4, 4), interval=2, **_NARROW),
    's': dict(depths=(3, 4, 18, 3), mlp_ratios=(8, 8, 4, 4), interval=6, **_NARROW),
    'b': dict(depths=(3, 8, 27, 3), mlp_ratios=(8, 8, 4, 4), interval=6, **_NARROW),
    'l': dict(
        depths=(3, 4, 24, 3),
        widths=(96, 192, 384, 768),
        mlp_ratios=(4, 4, 4, 4),
        shares=(2, 4, 4, 8),
        interval=6,
    ),
}


class ArgumentError(ValueError):
    """An argument that describes a model is not allowed."""


def resolve_arch(arch: str | Mapping[str, Any]) -> dict[str, Any]:
    """The complete description of ``arch``, a name in :data:`ARCHS` or a mapping of its keys.

    Raises:
        ArgumentError: unknown name; or a mapping with a missing or unknown key or a bad value.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ArgumentError(f'arch must be one of {sorted(ARCHS)} or a dict, but is {arch!r}')
        return dict(ARCHS[arch])
    keys = sorted(ARCHS['t'])
    if not isinstance(arch, Mapping) or sorted(arch) != keys:
        raise ArgumentError(
            f'arch must be one of {sorted(ARCHS)} or a dict with keys {keys}: {arch}'
        )
    arch = dict(arch)
    for key in ('depths', 'widths', 'mlp_ratios', 'shares'):
        values = arch[key]
        if not isinstance(values, Sequence) or len(values) != NUM_STAGES:
            raise ArgumentError(f'arch[{key!r}] must list {NUM_STAGES} numbers, but is {values!r}')
        whole = key != 'mlp_ratios'
        if not all(isinstance(v, int) or (not whole and isinstance(v, float)) for v in values) or (
            min(values) <= 0
        ):
            kind = 'whole numbers' if whole else 'numbers'
            raise ArgumentError(f'arch[{key!r}] must be {kind} above 0, but is {values!r}')
    if not isinstance(arch['interval'], int) or arch['interval'] < 1:
        raise ArgumentError(f"arch['interval'] must be a whole number >= 1: {arch['interval']!r}")
    if min(arch['depths']) < 2:
        raise ArgumentError(
            "arch['depths'] must be at least 2, since the last block of a stage never generates "
            f'offsets, but is {arch["depths"]!r}'
        )
    for width, share in zip(arch['widths'], arch['shares'], strict=True):
        if width % share or width % 4:
            raise ArgumentError(
                "arch['widths'] must be multiples of 4 and of arch['shares'], "
                f'but width {width} meets share {share}'
            )
    return arch


class Stem(nn.Conv2d):
    """The convolution 7 x 7, stride 4, that makes tokens of pixels.

    Args:
        in_channels: channels of the image.
        dim: channels ``C`` of a token.
    """

    def __init__(self, in_channels: int, dim: int):
        super().__init__(in_channels, dim, 7, stride=4, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, in_channels, H, W]`` to ``[B, C, H / 4, W / 4]``, channels last in memory.

        Raises:
            ValueError: another number of dimensions or channels, or fewer pixels.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'images must be [B, {self.in_channels}, H, W], but are {list(x.shape)}'
            )
        if min(x.shape[2:]) < MIN_SIZE:
            raise ValueError(
                f'images must be at least {MIN_SIZE} pixels high and wide, but are {list(x.shape)}'
            )
        fix_sizes(*x.shape[2:])
        # Everything after it is channels last too; in that layout permuting copies nothing.
        # torch.func.vmap knows no other memory formats than the contiguous one.
        return super().forward(x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))


class Block(nn.Module):
    """Token mixing, then channel mixing, each behind a LayerNorm and a residual connection.

    Args:
        dim: channels ``C``.
        share: channels that share one offset.
        mlp_ratio: hidden over outer channels of the MLP.
        drop_path: probability of dropping a residual branch.
        generates_offset: whether the block predicts new offsets, ``[B, H, W, 2 * C / share]``.
    """

    def __init__(
        self, dim: int, share: int, mlp_ratio: float, drop_path: float, generates_offset: bool
    ):
        super().__init__()
        self.offset = (
            nn.Sequential(nn.LayerNorm(dim), Linear(dim, 2 * dim // share))
            if generates_offset
            else None
        )
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = ActiveTokenMixer(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = ChannelMlp(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        x = x + self.drop_path(self.mixer(self.norm1(x), offset))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Blocks of one resolution, with the positional convolution that they share.

    Args:
        in_dim: channels of the previous stage; None if the stage keeps the map it is given.
        dim: channels ``C``.
        depth: blocks.
        share, mlp_ratio: see :class:`Block`.
        drop_paths: one probability a block.
        interval: every how many blocks new offsets are generated, except by the last block.
    """

    def __init__(
        self,
        in_dim: int | None,
        dim: int,
        depth: int,
        share: int,
        mlp_ratio: float,
        drop_paths: Sequence[float],
        interval: int,
    ):
        super().__init__()
        self.downsample = (
            nn.Identity() if in_dim is None else nn.Conv2d(in_dim, dim, 3, stride=2, padding=1)
        )
        self.peg = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.blocks = nn.ModuleList(
            Block(dim, share, mlp_ratio, drop_paths[j], j % interval == 0 and j != depth - 1)
            for j in range(depth)
        )
        self.with_cp = False

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H_in, W_in]`` to ``[B, H, W, C]``."""
        x = self.downsample(x).permute(0, 2, 3, 1)
        offset: Tensor | None = None
        block: Any  # nn.ModuleList knows its items as modules
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x, offset = checkpoint(self._step, block, x, offset, use_reentrant=False)
            else:
                x, offset = self._step(block, x, offset)
        return x

    def _step(self, block: Block, x: Tensor, offset: Tensor | None) -> tuple[Tensor, Any]:
        if block.offset is not None:
            x = x + self.peg(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            offset = block.offset(x)
        return block(x, offset), offset


class Trunk(nn.Module):
    """Stem and four stages of ATMNet, initialised as published; its subclasses add norms or a head.

    Args:
        arch: ``xt``, ``t``, ``s``, ``b``, ``l``, or a dict with the keys of one of :data:`ARCHS`.
        in_channels: channels of the image.
        drop_path_rate: drop probability of the last block's residual branches, in [0, 1); it
            grows linearly from 0 at the first block.
        num_stages: stages to build, from the first on.

    Raises:
        ValueError: an argument is outside what is allowed.

    Source: *Active Token Mixer* (arXiv 2203.06108), section "ATMNet".
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 't',
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        num_stages: int = NUM_STAGES,
    ):
        super().__init__()
        if not 0 <= drop_path_rate < 1:
            raise ArgumentError(f'drop_path_rate must be in [0, 1), but is {drop_path_rate!r}')
        if not isinstance(in_channels, int) or in_channels < 1:
            raise ArgumentError(f'in_channels must be a whole number >= 1, but is {in_channels!r}')
        self.arch = resolve_arch(arch)
        depths, self.widths = self.arch['depths'], tuple(self.arch['widths'])
        rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').split(list(depths))

        self.stem = Stem(in_channels, self.widths[0])
        self.stages = nn.ModuleList(
            Stage(
                in_dim=self.widths[i - 1] if i else None,
                dim=self.widths[i],
                depth=depths[i],
                share=self.arch['shares'][i],
                mlp_ratio=self.arch['mlp_ratios'][i],
                drop_paths=rates[i].tolist(),
                interval=self.arch['interval'],
            )
            for i in range(num_stages)
        )

    def forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        """Images ``[B, in_channels, H, W]`` to the un-normalised map ``[B, H_i, W_i, C_i]`` of
        every stage; stage ``i`` has stride ``4 * 2**i``. ``H`` and ``W`` are any from 3 on.

        Raises:
            ValueError: another number of dimensions or channels, or fewer pixels.
        """
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            yield x
            x = x.permute(0, 3, 1, 2)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """For layer-wise learning rates: the layer of a parameter, and the number of layers.

        Layer 0 is the stem and each block is a layer. What a stage owns besides goes with its
        first block, its output norm with its last; the last layer holds everything else.

        Raises:
            ValueError: the name does not begin with ``prefix``.
        """
        if not param_name.startswith(prefix):
            raise ValueError(f'{param_name!r} does not begin with {prefix!r}')
        depths = self.arch['depths']
        first, *rest = param_name.removeprefix(prefix).split('.')
        layers = sum(depths) + 2
        if first == 'stem':
            return 0, layers
        if first == 'stages':
            stage, part, *rest = rest
            block = int(rest[0]) if part == 'blocks' else 0
            return 1 + sum(depths[: int(stage)]) + block, layers
        if first.startswith('norm'):  # norm0 to norm3, or the one norm of a classifier
            level = int(first.removeprefix('norm') or NUM_STAGES - 1)
            return sum(depths[: level + 1]), layers
        return layers - 1, layers


def init_parameters(module: nn.Module) -> None:
    """Initialise one layer as published; meant for ``module.apply(init_parameters)``."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels / module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
