"""Layer-wise learning rate decay."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Decay the learning rate from the head to the stem of the backbone.

    Parameters of backbone layer ``i`` out of ``n`` get ``lr * backbone_lr_mult * layer_decay ** (n
    - 1 - i)``. All others, the heads, get ``lr``. ``model.backbone.get_layer_depth`` defines the
    layers. The other rules of ``paramwise_cfg`` still apply, and their factors multiply. mmengine
    applies only one of them per parameter, so a custom key ``backbone`` would switch off
    ``norm_decay_mult`` there, and ``backbone_lr_mult`` (1.0 by default) does not. Example::

        optim_wrapper = dict(
            constructor='LayerDecayConstructor',
            paramwise_cfg=dict(backbone_lr_mult=0.1, layer_decay=0.9, norm_decay_mult=0.0),
        )

    Raises:
        ValueError: ``layer_decay`` is missing, it or ``backbone_lr_mult`` is not in (0, 1], or the
            backbone has no ``get_layer_depth``.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        self._factor('layer_decay')  # without paramwise_cfg, add_params is not called

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:  # called for a child; the whole model is finished below, once
            return
        decay = self._factor('layer_decay')
        factor = self._factor('backbone_lr_mult', 1.0)
        backbone: Any = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ValueError(
                f'{type(module).__name__} has no backbone with get_layer_depth, which '
                'LayerDecayConstructor needs'
            )
        scales = {}
        for name, parameter in backbone.named_parameters():
            layer, layers = backbone.get_layer_depth(name)
            scales[id(parameter)] = factor * decay ** (layers - 1 - layer)
        for group in params:
            (parameter,) = group['params']
            group['lr'] = group.get('lr', self.base_lr) * scales.get(id(parameter), 1.0)

    def _factor(self, name: str, default: float | None = None) -> float:
        value = self.paramwise_cfg.get(name, default)
        if not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f'paramwise_cfg.{name} must be in (0, 1], but is {value!r}')
        return value
