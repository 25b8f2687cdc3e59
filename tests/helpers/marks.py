"""Reasons to skip that several modules share."""

import pytest
import torch

from mmatm.ops import cpp

compiled = pytest.mark.skipif(not cpp.is_available(), reason='the C++ library is not built')
compiles = pytest.mark.skipif(
    not hasattr(torch.library, 'opcheck'),
    reason=f'torch {torch.__version__} can neither compile, export nor check operators like ours',
)
float16_on_cpu = pytest.mark.skipif(
    not hasattr(torch.library, 'opcheck'),  # a later release brought both
    reason=f'torch {torch.__version__} has no autocast to float16 on a CPU',
)
