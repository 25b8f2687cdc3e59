"""Every formulation of the sampling operator for exported graphs is the operator."""

import pytest
import torch

from mmatm.export.sampling import FORMULATIONS
from mmatm.ops import active_sample


@pytest.mark.parametrize('name', FORMULATIONS)
@pytest.mark.parametrize('shape', [(2, 5, 7, 8), (1, 1, 6, 8), (1, 6, 1, 8), (1, 1, 1, 8)])
@pytest.mark.parametrize('groups', [1, 4, 8])
def test_formulations_agree_with_the_operator(name, shape, groups):
    torch.manual_seed(0)
    x = torch.randn(shape)
    offset = 4 * torch.randn(*shape[:3], 2 * groups)  # many of them outside
    offset[0, 0, 0] = 0
    offset[-1, -1, -1] = torch.tensor([-1e30, 1e30]).repeat(groups)
    expected = active_sample(x, offset, backend='reference')
    tolerance = 1e-4 if name == 'grid_sample' else 1e-6
    torch.testing.assert_close(FORMULATIONS[name](x, offset), expected, rtol=0, atol=tolerance)
