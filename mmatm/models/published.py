"""The published formulation of ATMNet as a reference: the same function, computed differently.

torchvision's deformable convolution samples the tokens, with a 1x1 kernel, channels first, and one
offset group per channel. Offsets are repeated for every channel, and zero along the other axis. The
gate is computed from the three full-size maps. Nothing of :mod:`mmatm.ops` is used, so the tests
can compare with it.
"""

# mypy: disable-error-code="method-assign"

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from mmatm.models import ActiveTokenMixer, Trunk
from mmatm.models.trunk import Block


def use_published_formulation(model: Trunk) -> Trunk:
    """Make every block of ``model`` compute as published, and return ``model``."""
    module: Any
    for module in model.modules():
        if isinstance(module, ActiveTokenMixer):
            module.forward = MethodType(mixer_forward, module)
        elif isinstance(module, Block):
            module.forward = MethodType(block_forward, module)
        elif isinstance(module, nn.Linear):
            module.forward = MethodType(nn.Linear.forward, module)
    return model


def block_forward(block: Block, x: Tensor, offset: Tensor) -> Tensor:
    """Apply both branches to ``x [B, H, W, C]``, one plain module after the other."""
    x = x + block.drop_path(block.mixer(block.norm1(x), offset))
    mlp = block.mlp
    return x + block.drop_path(mlp.fc2(F.gelu(mlp.fc1(block.norm2(x)))))


def mixer_forward(mixer: ActiveTokenMixer, x: Tensor, offset: Tensor) -> Tensor:
    """Map ``x [B, H, W, C]`` and ``offset [B, H, W, 2G]`` to ``[B, H, W, C]``."""
    batch, _, _, dim = x.shape
    share = dim // (offset.shape[-1] // 2)
    first = x.permute(0, 3, 1, 2).contiguous()
    offset = offset.to(x.dtype).permute(0, 3, 1, 2).repeat_interleave(share, dim=1)
    along_width, along_height = offset.chunk(2, dim=1)
    still = torch.zeros_like(along_width)

    def sample(y_offset: Tensor, x_offset: Tensor, branch: nn.Linear) -> Tensor:
        both = torch.stack([y_offset, x_offset], dim=2).flatten(1, 2)  # y and x per channel
        weight = branch.weight.to(x.dtype)[..., None, None]
        return deform_conv2d(first, both, weight, branch.bias.to(x.dtype)).permute(0, 2, 3, 1)

    w = sample(still, along_width, mixer.width)
    h = sample(along_height, still, mixer.height)
    c = mixer.channel(x)
    gate = mixer.gate((w + h + c).permute(0, 3, 1, 2).flatten(2).mean(2))
    gate = gate.reshape(batch, dim, 3).permute(2, 0, 1).softmax(0)[:, :, None, None]
    return mixer.proj(gate[0] * w + gate[1] * h + gate[2] * c)
