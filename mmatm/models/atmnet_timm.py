"""ATMNet as a timm model: ``timm.create_model('atmnet_t')`` after ``import mmatm``."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import register_notrace_module
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..checkpoints import adapt_state_dict, select_names
from .linear import Linear
from .mixer import ActiveTokenMixer
from .mlp import ChannelMlp
from .trunk import NUM_STAGES, Stem, Trunk, init_parameters

__all__ = ['ATMNetClassifier']

# Their control flow depends on the size of the map, which torch.fx cannot trace.
for _module in (ActiveTokenMixer, ChannelMlp, Linear, Stem):
    register_notrace_module(_module)


class ATMNetClassifier(Trunk):
    """ATMNet classifier: the trunk, one LayerNorm, the mean over tokens, and a linear head.

    Its parameters are those of :class:`Trunk`, ``norm.*`` and ``head.*``. ``load_state_dict``
    accepts published, timm's and mm's names.

    Args:
        arch: ``xt``, ``t``, ``s``, ``b``, ``l``, or a dict with the keys of one of
            :data:`mmatm.models.ARCHS`.
        num_classes: number of outputs of the head; 0 for no head.
        in_chans: number of channels of the images.
        global_pool: ``avg`` for the mean over tokens, or an empty string for logits per token.
        drop_rate: dropout rate before the head, in [0, 1].
        drop_path_rate: drop probability of the last block's residual branches, in [0, 1).

    Raises:
        ValueError: an argument is not allowed.
        CheckpointError: (when loading) the weights do not fit this model.

    Source: *Active Token Mixer* (AAAI 2023, arXiv 2203.06108).
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 't',
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__(arch, in_chans, drop_path_rate)
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.output_fmt = 'NHWC'  # of forward_features, for timm
        self.num_features = self.head_hidden_size = self.widths[-1]
        self.feature_info = [
            dict(num_chs=width, reduction=4 * 2**i, module=f'stages.{i}')
            for i, width in enumerate(self.widths)
        ]
        self.norm: nn.Module = nn.LayerNorm(self.num_features)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.apply(init_parameters)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images ``[B, in_chans, H, W]`` to normalized features ``[B, H/32, W/32, C]``."""
        for stage in self.forward_stages(x):
            x = stage
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the result of :meth:`forward_features` to logits ``[B, num_classes]``.

        Without pooling they are ``[B, H/32, W/32, num_classes]``. With ``pre_logits`` the head is
        skipped, and features are returned.
        """
        if self.global_pool:
            x = x.mean((1, 2))
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[B, in_chans, H, W]`` to the result of :meth:`forward_head`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the result of :meth:`forward_features` and a list of feature maps.

        Args:
            x: images ``[B, in_chans, H, W]``.
            indices: stages from 0 to 3; an int n for the last n; None for all.
            norm: normalize the map of stage 3; the other stages have no norm.
            stop_early: skip the stages after the last wanted one. Its map, without a norm, then
                replaces the result of :meth:`forward_features`.
            output_fmt: ``NCHW`` or ``NHWC``.
            intermediates_only: return only the list.
        """
        if output_fmt not in ('NCHW', 'NHWC'):
            raise ValueError(f'output_fmt must be NCHW or NHWC, but is {output_fmt!r}')
        wanted, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        for i, stage in enumerate(self.forward_stages(x)):
            x = stage
            if i == NUM_STAGES - 1 and norm:
                stage = self.norm(stage)
            if i in wanted:
                intermediates.append(stage.permute(0, 3, 1, 2) if output_fmt == 'NCHW' else stage)
            if stop_early and i == last:
                break
        if intermediates_only:
            return intermediates
        return (self.norm(x) if i == NUM_STAGES - 1 else x), intermediates

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove layers that the stages ``indices`` do not need; return the stages as a list."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if shortened:
            self.num_features = self.head_hidden_size = self.widths[last]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if prune_head or shortened:
            self.reset_classifier(0, '')
        return wanted

    def get_classifier(self) -> nn.Module:
        """Return the head: ``nn.Linear``, or ``nn.Identity`` if there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a newly initialized one; ``global_pool`` None keeps the pooling."""
        if global_pool is not None:
            if global_pool not in ('avg', ''):
                raise ValueError(f"global_pool must be 'avg' or '', but is {global_pool!r}")
            self.global_pool = global_pool
        if not isinstance(num_classes, int) or num_classes < 0:
            raise ValueError(f'num_classes must be a whole number >= 0, but is {num_classes!r}')
        self.num_classes = num_classes
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        head.apply(init_parameters)
        self.head = head.to(self.stem.weight)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of storing its activations."""
        for stage in self.stages:
            stage.with_cp = enable  # type: ignore[assignment]

    def no_weight_decay(self) -> set[str]:
        """Return parameters without weight decay; timm itself exempts norms and biases."""
        return {name for name, _ in self.named_parameters() if '.peg.' in name}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that group parameters as :meth:`get_layer_depth` does, or by stage."""
        blocks = [
            (r'^stages\.(\d+)\.(?:downsample|peg)', (0,)),
            (r'^stages\.(\d+)\.blocks\.(\d+)', None),
            (r'^norm', (99999,)),  # timm's code for the group of the previous layer
        ]
        return dict(stem=r'^stem', blocks=r'^stages\.(\d+)' if coarse else blocks)

    def _load_from_state_dict(
        self, state_dict: MutableMapping[str, Any], prefix: str, *args: Any
    ) -> None:
        adapt_state_dict(state_dict, prefix, self)
        super()._load_from_state_dict(state_dict, prefix, *args)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Select the tensors of ``model`` from ``state_dict`` and rename them, for timm's loader.

    By these names timm finds the stem, to adapt it to ``in_chans``, and the head, to drop it if
    ``num_classes`` differs.
    """
    names = select_names(state_dict, model.state_dict())
    return {own_name: state_dict[name] for name, own_name in names.items()}


def _cfg(**kwargs: Any) -> dict[str, Any]:
    # Mean, deviation, bicubic interpolation and crops (224 of 256, 384 of 438) as in the published
    # evaluation. There are no URLs, because none of the authors' could be checked.
    return (
        dict(
            input_size=(3, 224, 224),
            min_input_size=(3, 32, 32),
            pool_size=(7, 7),
            crop_pct=0.875,
            interpolation='bicubic',
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            num_classes=1000,
            first_conv='stem',
            classifier='head',
            paper_ids='arXiv:2203.06108',
            paper_name='Active Token Mixer',
            origin_url='https://github.com/microsoft/ActiveMLP',
        )
        | kwargs
    )


default_cfgs = generate_default_cfgs(
    {
        'atmnet_xt': _cfg(),
        'atmnet_t': _cfg(),
        'atmnet_s': _cfg(),
        'atmnet_b': _cfg(),
        'atmnet_l': _cfg(),
        'atmnet_l.in1k_384': _cfg(input_size=(3, 384, 384), pool_size=(12, 12)),
    }
)


def _create_atmnet(arch: str, pretrained: bool = False, **kwargs: Any) -> Any:
    return build_model_with_cfg(
        ATMNetClassifier,
        f'atmnet_{arch}',
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=range(NUM_STAGES), feature_cls='getter'),
        arch=arch,
        **kwargs,
    )


@register_model
def atmnet_xt(pretrained: bool = False, **kwargs: Any) -> ATMNetClassifier:
    """ATMNet-xT: 15.3 M parameters."""
    return _create_atmnet('xt', pretrained, **kwargs)


@register_model
def atmnet_t(pretrained: bool = False, **kwargs: Any) -> ATMNetClassifier:
    """ATMNet-T: 27.2 M parameters."""
    return _create_atmnet('t', pretrained, **kwargs)


@register_model
def atmnet_s(pretrained: bool = False, **kwargs: Any) -> ATMNetClassifier:
    """ATMNet-S: 38.6 M parameters."""
    return _create_atmnet('s', pretrained, **kwargs)


@register_model
def atmnet_b(pretrained: bool = False, **kwargs: Any) -> ATMNetClassifier:
    """ATMNet-B: 52.2 M parameters."""
    return _create_atmnet('b', pretrained, **kwargs)


@register_model
def atmnet_l(pretrained: bool = False, **kwargs: Any) -> ATMNetClassifier:
    """ATMNet-L: 76.2 M parameters."""
    return _create_atmnet('l', pretrained, **kwargs)
