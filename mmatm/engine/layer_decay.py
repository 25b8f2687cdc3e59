"""Layer-wise learning rate decay."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Decay the learning rate from the head to the stem of the backbone.

    Parameters of backbone layer ``i`` out of ``n`` get ``lr * layer_decay ** (n - 1 - i)``. All
    others, the heads, get ``lr``. ``model.backbone.get_layer_depth`` defines the layers. The other
    rules of ``paramwise_cfg`` still apply, and their factors multiply. Example::

        optim_wrapper = dict(
            constructor='LayerDecayConstructor',
            paramwise_cfg=dict(layer_decay=0.9, norm_decay_mult=0.0),
        )

    Raises:
        ValueError: ``layer_decay`` is missing or not in (0, 1], or the backbone has no
            ``get_layer_depth``.
    """

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:  # called for a child; the whole model is finished below, once
            return
        decay = self.paramwise_cfg.get('layer_decay')
        if not isinstance(decay, (int, float)) or not 0 < decay <= 1:
            raise ValueError(f'paramwise_cfg.layer_decay must be in (0, 1], but is {decay!r}')
        backbone: Any = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ValueError(
                f'{type(module).__name__} has no backbone with get_layer_depth, which '
                'LayerDecayConstructor needs'
            )
        scales = {}
        for name, parameter in backbone.named_parameters():
            layer, layers = backbone.get_layer_depth(name)
            scales[id(parameter)] = decay ** (layers - 1 - layer)
        for group in params:
            (parameter,) = group['params']
            group['lr'] = group.get('lr', self.base_lr) * scales.get(id(parameter), 1.0)
