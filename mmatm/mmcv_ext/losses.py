"""Focal losses (arXiv 1708.02002).

As in mmcv, probabilities are at least the smallest normal float32 number, so the loss of a
saturated wrong prediction is at most 87. Half-precision inputs are computed in float32.
"""

import torch
from torch import Tensor

from .kernels import widen

_SMALLEST = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss.

    Args:
        input: logits, ``[N, classes]``.
        target: int64 classes, ``[N]``; any other number is background.
        weight: weight per class of the target, ``[classes]``, or empty.
        output: receives the losses, ``[N, classes]``.
        gamma: exponent of the modulating factor.
        alpha: weight of the positive class; the weight of the negatives is ``1 - alpha``.
    """
    p, positive = _sigmoid(input), _one_hot(target, input)
    at_positive = (1 - p) ** gamma * _log(p)
    at_negative = p**gamma * _log(1 - p)
    loss = torch.where(positive, -alpha * at_positive, (alpha - 1) * at_negative)
    output.copy_(loss * _factor(weight, target).unsqueeze(1))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Backward pass of :func:`sigmoid_focal_loss_forward`; writes ``grad_input``."""
    p, positive = _sigmoid(input), _one_hot(target, input)
    at_positive = (1 - p) ** gamma * (1 - p - gamma * p * _log(p))
    at_negative = p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    grad = torch.where(positive, -alpha * at_positive, (alpha - 1) * at_negative)
    grad_input.copy_(grad * _factor(weight, target).unsqueeze(1))


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Softmax focal loss.

    Args:
        input: probabilities, ``[N, classes]``.
        target: int64 classes, ``[N]``; negative ones are ignored.
        weight: weight per class of the target, ``[classes]``, or empty.
        output: receives the losses, ``[N]``.
        gamma: exponent of the modulating factor.
        alpha: factor of the loss.
    """
    p = _of_target(input, target)
    loss = -alpha * (1 - p) ** gamma * _log(p) * _factor(weight, target)
    output.copy_(loss.where(target >= 0, 0))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Backward pass of :func:`softmax_focal_loss_forward`, with respect to the logits.

    Args:
        input: probabilities, ``[N, classes]``.
        target: int64 classes, ``[N]``.
        weight: weight per class, ``[classes]``, or empty.
        buff: not used.
        grad_input: receives the result, ``[N, classes]``.
        gamma: exponent of the modulating factor.
        alpha: factor of the loss.
    """
    p = _of_target(input, target)
    slope = alpha * (gamma * (1 - p) ** (gamma - 1) * p * _log(p) - (1 - p) ** gamma)
    slope = (slope * _factor(weight, target)).where(target >= 0, 0).unsqueeze(1)
    grad_input.copy_(slope * (_one_hot(target, input).float() - widen(input)))


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-widen(x)))


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=_SMALLEST).log()


def _one_hot(target: Tensor, like: Tensor) -> Tensor:
    """Whether a class is the target, ``[N, classes]``."""
    return target.unsqueeze(1) == torch.arange(like.shape[1], device=like.device)


def _of_target(probabilities: Tensor, target: Tensor) -> Tensor:
    """The probability of the target, ``[N]``."""
    return widen(probabilities).gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)


def _factor(weight: Tensor, target: Tensor) -> Tensor:
    """The weight of the target, ``[N]``; 1 if it is not a class or there are no weights."""
    classes = len(weight)
    known = (target >= 0) & (target < classes)
    return torch.cat([widen(weight), weight.new_ones(1)])[target.where(known, classes)]
