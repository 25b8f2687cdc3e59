"""Deformable convolution, versions 1 and 2, with torchvision.

mmcv's ``columns``, ``ones`` and ``im2col_step`` belong to its own algorithm and are ignored.
Offsets come in pairs (y, x), ``[B, deform_groups * kH * kW * 2, H_out, W_out]``, and masks are
``[B, deform_groups * kH * kW, H_out, W_out]``.
"""

import torch
from torch import Tensor

from .kernels import torchvision, widen

_Geometry = tuple[int, ...]  # stride, padding and dilation, y before x; groups; deform_groups


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (arXiv 1703.06211).

    Args:
        input: ``[B, C_in, H, W]``.
        weight: ``[C_out, C_in / group, kH, kW]``.
        offset: displacements of the sampling positions.
        output: receives the result, ``[B, C_out, H_out, W_out]``.
        columns: not used.
        ones: not used.
        kW: width of the kernel.
        kH: height of the kernel.
        dW: stride along the width.
        dH: stride along the height.
        padW: padding along the width.
        padH: padding along the height.
        dilationW: dilation along the width.
        dilationH: dilation along the height.
        group: groups of the convolution.
        deformable_group: groups of channels that share offsets.
        im2col_step: not used.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_forward(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients of :func:`deform_conv_forward`.

    Adds to ``gradInput`` and overwrites ``gradOffset``.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _backward(gradOutput, input, weight, offset, None, geometry)
    gradInput += grads[0]
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to ``gradWeight``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # The gradient of the weight does not depend on the weight, so any tensor of that shape will do.
    grads = _backward(gradOutput, input, gradWeight, offset, None, geometry)
    gradWeight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution with a factor per sample (arXiv 1811.11168).

    Args:
        input: ``[B, C_in, H, W]``.
        weight: ``[C_out, C_in / group, kernel_h, kernel_w]``.
        bias: ``[C_out]`` if ``with_bias``.
        ones: not used.
        offset: displacements of the sampling positions.
        mask: factors of the samples.
        output: receives the result, ``[B, C_out, H_out, W_out]``.
        columns: not used.
        kernel_h: height of the kernel.
        kernel_w: width of the kernel.
        stride_h: stride along the height.
        stride_w: stride along the width.
        pad_h: padding along the height.
        pad_w: padding along the width.
        dilation_h: dilation along the height.
        dilation_w: dilation along the width.
        group: groups of the convolution.
        deformable_group: groups of channels that share offsets.
        with_bias: whether ``bias`` is added.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    output.copy_(_forward(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`.

    Adds to the gradients of input, weight and bias; overwrites those of offset and mask.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    grads = _backward(grad_output, input, weight, offset, mask, geometry)
    grad_input += grads[0]
    grad_weight += grads[1]
    grad_offset.copy_(grads[2])
    grad_mask.copy_(grads[3])
    if with_bias:
        grad_bias += grads[4]


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: _Geometry,
) -> Tensor:
    arguments = _arguments(input, weight, offset, mask, bias)
    return torchvision().deform_conv2d(*arguments, *geometry, mask is not None)


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: _Geometry,
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    arguments = _arguments(input, weight, offset, mask, None)
    grad = grad_output.to(arguments[0].dtype)
    grads = torchvision()._deform_conv2d_backward(grad, *arguments, *geometry, mask is not None)
    _zero_at_minus_one(grads[2], arguments[2], weight.shape[2:], geometry)
    return grads


def _arguments(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """Arguments of torchvision's operator, in a dtype that it and torch support."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = input.new_zeros(len(weight))
    return [widen(x, keep_half=input.is_cuda) for x in (input, weight, offset, mask, bias)]


def _zero_at_minus_one(
    grad_offset: Tensor, offset: Tensor, kernel: torch.Size, geometry: _Geometry
) -> None:
    """Set the gradient of an offset to 0 if its sampling position is exactly -1.

    The derivative jumps there, because samples are 0 outside the map. mmcv takes the derivative
    from outside, torchvision the one from inside. Offsets are initially 0, so with padding this is
    common.
    """
    stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, *_ = geometry
    pairs = (-1, *kernel, 2, *offset.shape[2:])  # [B * deform_groups, kH, kW, (y, x), H, W]
    y, x = offset.reshape(pairs).unbind(3)
    tap_y, tap_x, row, column = (torch.arange(size, device=offset.device) for size in y.shape[1:])
    at_y = y + (row * stride_y - pad_y).view(-1, 1) + (tap_y * dilation_y).view(-1, 1, 1, 1) == -1
    at_x = x + (column * stride_x - pad_x) + (tap_x * dilation_x).view(-1, 1, 1) == -1
    grad_offset.view(pairs).masked_fill_((at_y | at_x).unsqueeze(3), 0)
