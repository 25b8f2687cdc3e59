"""Random inputs and tolerances for the tests of the operator's backends."""

import torch

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Half types round their results once; the sums are float32 on both sides.
RTOL = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def problem(size, groups, share, dtype, spread=2.0, seed=0):
    """Random x, offsets of some tokens, and a gradient of the samples."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(*size, groups * share), (*size, 2 * groups), (*size, 2 * groups * share)]
    x, offset, grad = (torch.randn(shape, generator=generator) for shape in shapes)
    return [t.to(dtype) for t in (x, spread * offset, grad)]
