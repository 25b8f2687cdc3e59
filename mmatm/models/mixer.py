"""The active token mixer (ATM)."""

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from ..ops import active_sample, active_sample_mean
from ..utils.compat import autocast_dtype, is_compiling, is_transforming
from .linear import Linear, linear, linear_is_convolution


class ActiveTokenMixer(nn.Module):
    """Mix every token with tokens of its row, of its column, and with its own channels.

    With ``s_w, s_h`` the samples of ``x`` along the width and the height, the layer is::

        w, h, c = width(s_w), height(s_h), channel(x)
        a_w, a_h, a_c = softmax(gate(mean over tokens of (w + h + c)))       per channel
        out = proj(a_w * w + a_h * h + a_c * c)

    It is not computed in that order. The mean is linear, so the gate follows from the means of
    ``s_w``, ``s_h`` and ``x`` before any large product; and once the gate is known, the three
    products and ``proj`` are one linear map of ``[s_w, s_h, x]``, different for every image. That
    map costs 3C² instead of 4C² per token and 3C³ per image to form, so it is used where an image
    has at least 3C tokens. Both forms are exact and differentiable.

    Args:
        dim: channels ``C``.

    Source: *Active Token Mixer* (arXiv 2203.06108), section "Active Token Mixer".
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.width = Linear(dim, dim)
        self.height = Linear(dim, dim)
        self.channel = Linear(dim, dim, bias=False)
        self.gate = Mlp(dim, dim // 4, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """``x [B, H, W, C]`` and ``offset [B, H, W, 2G]`` in tokens, to ``[B, H, W, C]``."""
        # Under autocast on a GPU, a LayerNorm gives float32, but all products that follow take half
        # precision, and a linear layer has predicted the offsets in it. The operator computes
        # positions in float32.
        dtype = autocast_dtype(x.device.type)
        if dtype is not None and x.dtype == torch.float32:
            x = x.to(dtype)
        offset = offset.to(x.dtype)
        mix = self._mix_folded if self.folds(x.shape[1] * x.shape[2]) else self._mix_branches
        return mix(x, offset).view(x.shape)

    def folds(self, tokens: int) -> bool:
        """Whether images of that many tokens are mixed by one folded map instead of four.

        Compiled and exported code serves any size, so there the number of channels decides: the
        maps of strides 4 and 8 nearly always have enough tokens, that of stride 32 never.
        """
        return self.dim < 256 if is_compiling() else tokens >= 3 * self.dim

    def _mix_folded(self, x: Tensor, offset: Tensor) -> Tensor:
        samples, mean = active_sample_mean(x, offset)
        samples, tokens = samples.flatten(1, 2), x.flatten(1, 2)
        weight = torch.cat([self.width.weight, self.height.weight, self.channel.weight], dim=1)
        gate = self._gate(F.linear(mean, weight, self.width.bias + self.height.bias))

        gated = (gate.unsqueeze(-1) * weight.unflatten(1, (3, self.dim))).flatten(2)  # [B, C, 3C]
        bias = gate[..., 0] * self.width.bias + gate[..., 1] * self.height.bias
        bias = self.proj(bias)
        if linear_is_convolution(x):
            images = zip(samples, tokens, gated, bias, strict=True)
            mixed = [self._mix_image(*image) for image in images]
            return torch.stack(mixed) if len(mixed) > 1 else mixed[0].unsqueeze(0)  # no copy of one
        folded = self.proj.weight @ gated
        for_samples, for_tokens = folded.split([2 * self.dim, self.dim], dim=2)
        out = torch.baddbmm(bias.unsqueeze(1), samples, for_samples.mT)
        if out.dtype == tokens.dtype and not is_transforming():
            return out.baddbmm_(tokens, for_tokens.mT)  # saves a copy
        return torch.baddbmm(out, tokens, for_tokens.mT)

    def _mix_image(self, samples: Tensor, tokens: Tensor, gated: Tensor, bias: Tensor) -> Tensor:
        """``[N, 2C]``, ``[N, C]``, ``[C, 3C]`` and ``[C]``, all of one image, to ``[N, C]``."""
        folded = linear(self.proj.weight, gated.mT)
        for_samples, for_tokens = folded.split([2 * self.dim, self.dim], dim=1)
        return linear(samples, for_samples, bias).add_(linear(tokens, for_tokens))

    def _mix_branches(self, x: Tensor, offset: Tensor) -> Tensor:
        samples, tokens = active_sample(x, offset).flatten(1, 2), x.flatten(1, 2)
        along_width, along_height = samples.split(self.dim, dim=-1)
        width, height = self.width(along_width), self.height(along_height)
        channel = self.channel(tokens)
        gate = self._gate((width + height + channel).mean(1)).unsqueeze(1)
        mixed = torch.addcmul(gate[..., 0] * width, gate[..., 1], height)
        return self.proj(torch.addcmul(mixed, gate[..., 2], channel))

    def _gate(self, mean: Tensor) -> Tensor:
        """``[B, C]``, the mean of the three branches, to their weights ``[B, C, 3]``."""
        return self.gate(mean).unflatten(1, (self.dim, 3)).softmax(-1)
