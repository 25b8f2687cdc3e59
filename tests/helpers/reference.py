"""Published values and weights from ``tests/data``."""

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

DATA = Path(__file__).parents[1] / 'data'

_spec = importlib.util.spec_from_file_location('weights', DATA / 'weights.py')
weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(weights)

# arch -> stored features, input size
FEATURES = {
    'xt': ('features_xt_2x64x96.npz', (2, 64, 96)),
    't': ('features_t_1x75x101.npz', (1, 75, 101)),
    's': ('features_s_1x96x64.npz', (1, 96, 64)),
    'l': ('features_l_1x64x64.npz', (1, 64, 64)),
}


def published_state_dict(
    arch: str, head: bool = False, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """A state dict with the names, shapes and layout of the published checkpoints."""
    arrays = _published_arrays(arch, head)
    return {name: torch.tensor(array, dtype=dtype) for name, array in arrays.items()}


@lru_cache(maxsize=2)
def _published_arrays(arch: str, head: bool) -> dict[str, np.ndarray]:
    return weights.published_state_dict(arch, head)


def identical(one: object, other: object) -> bool:
    """Whether two nested structures hold the same values, bit for bit."""
    (leaves, spec), (other_leaves, other_spec) = tree_flatten(one), tree_flatten(other)
    return spec == other_spec and all(
        torch.equal(a, b) if torch.is_tensor(a) else a == b
        for a, b in zip(leaves, other_leaves, strict=True)
    )
