"""ATMNet as a backbone for mmdet, mmsegmentation and mmpretrain."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checkpoints import adapt_state_dict
from ..checkpoints.loading import load_pretrained
from ..utils.messages import log
from .trunk import NUM_STAGES, ArgumentError, Trunk, init_parameters


@MODELS.register_module()
class ATMNet(Trunk, BaseModule):
    """ATMNet backbone: four feature maps at strides 4, 8, 16 and 32, each with its own LayerNorm.

    Args:
        arch: ``xt``, ``t``, ``s``, ``b``, ``l``, or a dict with the keys of one of
            :data:`mmatm.models.ARCHS`.
        in_channels: number of channels of the images.
        out_indices: stages from 0 to 3 whose maps are returned, in ascending order. Later stages
            are not built.
        drop_path_rate: drop probability of the last block's residual branches, in [0, 1).
        frozen_stages: -1 trains everything; ``n >= 0`` freezes the stem and the first ``n``
            stages with their output norms.
        with_cp: recompute every block in the backward pass instead of storing its activations.
        init_cfg: mmengine initialization. ``dict(type='Pretrained', checkpoint=FILE)`` reads
            published files (ImageNet classifiers and mm segmentors) and files written by mmengine
            or timm. ``ema=True`` loads the EMA weights.

    Raises:
        ArgumentError: an argument is not allowed.
        CheckpointError: (when loading) the weights do not fit this backbone.

    Source: *Active Token Mixer* (AAAI 2023, arXiv 2203.06108).

    Example:
        >>> import torch
        >>> from mmengine.registry import MODELS
        >>> model = MODELS.build(dict(type='ATMNet', arch='xt'))
        >>> [tuple(level.shape) for level in model(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 't',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ):
        if isinstance(out_indices, str) or not isinstance(out_indices, Sequence):
            raise ArgumentError(f'out_indices must be a list of stages, but is {out_indices!r}')
        allowed = range(NUM_STAGES)
        if not out_indices or any(
            i not in allowed or (n and i <= out_indices[n - 1]) for n, i in enumerate(out_indices)
        ):
            raise ArgumentError(
                f'out_indices must be ascending and out of {list(allowed)}, but is {out_indices!r}'
            )
        if frozen_stages not in range(-1, NUM_STAGES + 1):
            raise ArgumentError(
                f'frozen_stages must be from -1 to {NUM_STAGES}, but is {frozen_stages!r}'
            )
        # Stages after the last output would get no gradient.
        super().__init__(arch, in_channels, drop_path_rate, num_stages=out_indices[-1] + 1)
        self.init_cfg = init_cfg
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        stage: Any  # to type checkers, the items of nn.ModuleList are plain modules
        for stage in self.stages:
            stage.with_cp = with_cp
        # DistributedDataParallel rejects parameters without a gradient, so build no unused norms.
        for i in self.out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(self.widths[i]))
        self.apply(init_parameters)
        self._freeze()

    def init_weights(self) -> None:
        """Apply ``init_cfg`` (mmengine calls this before training)."""
        configs = [self.init_cfg] if isinstance(self.init_cfg, dict) else list(self.init_cfg or [])
        if not configs:
            log('ATMNet: no init_cfg, so it starts from random weights')
        if self.is_init:
            return
        # mmengine does the rest. It may unpickle anything, so it must not read pretrained files.
        pretrained = [c for c in configs if c.get('type') == 'Pretrained']
        own, self.init_cfg = self.init_cfg, [c for c in configs if c not in pretrained]
        super().init_weights()
        self.init_cfg = own
        for config in pretrained:
            load_pretrained(self, **{k: v for k, v in config.items() if k != 'type'})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``[B, in_channels, H, W]`` to ``[B, C_i, H_i, W_i]`` per output stage."""
        outputs = []
        for i, feature in enumerate(self.forward_stages(x)):
            if i in self.out_indices:
                feature = getattr(self, f'norm{i}')(feature)
                # mmcv's RoI operators ignore strides and assume channels first.
                outputs.append(feature.permute(0, 3, 1, 2).contiguous())
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'ATMNet':
        """Set training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.stem, *self.stages[: self.frozen_stages]]
        frozen += [getattr(self, f'norm{i}') for i in self.out_indices if i < self.frozen_stages]
        for module in frozen:
            module.eval().requires_grad_(False)

    def _load_from_state_dict(
        self, state_dict: MutableMapping[str, Any], prefix: str, *args: Any
    ) -> None:
        adapt_state_dict(state_dict, prefix, self)
        super()._load_from_state_dict(state_dict, prefix, *args)
