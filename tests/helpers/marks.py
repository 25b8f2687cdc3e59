"""Reasons to skip that several modules share."""

import pytest
import torch

from mmatm.ops import cpp

compiled = pytest.mark.skipif(not cpp.is_available(), reason='the C++ library is not built')
compiles = pytest.mark.skipif(
    not hasattr(torch.library, 'opcheck'),
    reason=f'torch {torch.__version__} can neither compile, export nor check operators like ours',
)
