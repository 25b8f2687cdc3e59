"""Replacement for ``mmcv._ext``, for an mmcv without compiled operators.

:data:`SUPPLIED` lists the available operators. They use torchvision and plain PyTorch, run on any
device, and have the signatures that mmcv 2.1 to 2.3 call. Any other name is a function that reports
what is missing when it is called, so that all of mmcv, mmdet and mmseg can be imported.

This package does not import mmcv. It imports torchvision only when an operator needs it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

from .attention import ms_deform_attn_backward, ms_deform_attn_forward
from .boxes import nms, nms_match, softnms
from .deformable import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .info import get_compiler_version, get_compiling_cuda_version
from .losses import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .pooling import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)

_OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        deform_conv_forward,
        get_compiler_version,
        get_compiling_cuda_version,
        modulated_deform_conv_backward,
        modulated_deform_conv_forward,
        ms_deform_attn_backward,
        ms_deform_attn_forward,
        nms,
        nms_match,
        roi_align_backward,
        roi_align_forward,
        roi_pool_backward,
        roi_pool_forward,
        sigmoid_focal_loss_backward,
        sigmoid_focal_loss_forward,
        softmax_focal_loss_backward,
        softmax_focal_loss_forward,
        softnms,
    )
}

SUPPLIED: tuple[str, ...] = tuple(sorted(_OPERATORS))
"""Names of the available operators."""


def __getattr__(name: str) -> Callable[..., Any]:
    """Return the operator ``name``, or a function that fails when it is called.

    A module that imports this function has all operators as attributes.
    """
    if name.startswith('__'):
        raise AttributeError(name)
    return _OPERATORS.get(name) or _missing(name)


@cache
def _missing(name: str) -> Callable[..., NoReturn]:
    def missing(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(
            f'{name} is not available, because mmcv was installed without compiled operators and '
            'mmatm supplies none of this name; build mmcv with a compiler: '
            '"pip install --no-build-isolation --no-binary onedl-mmcv onedl-mmcv" after torch, '
            'or "make setup MMCV=compiled" in a clone of mmatm'
        )

    missing.__name__ = missing.__qualname__ = name
    return missing
