"""What the Triton kernels take of a GPU, compiled without one: registers, spills and bytes.

``python tests/ops/test_triton_resources.py`` writes the table anew.
"""

import csv
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from mmatm.ops import triton as backend
from sampling import problem

FILE = Path(__file__).with_name('triton_resources.csv')
KEY, VALUES = ('kernel', 'dtype', 'share', 'target'), ('registers', 'spills', 'bytes')
# dtype, channels per offset, and their widest access.
CASES = [
    (torch.float32, 2, 'v2.b32'),
    (torch.float64, 3, 'b64'),
    (torch.float16, 2, 'b32'),
    (torch.bfloat16, 4, 'v2.b32'),
    (torch.float16, 8, 'v4.b32'),
]
TARGETS = [80, 90]
KERNELS = ['forward', 'forward_mean', 'backward', 'backward_mean', 'backward_offset',
           'scatter_width', 'scatter_height']  # fmt: skip

pytestmark = [
    pytest.mark.skipif(backend.triton is None, reason='Triton 3 is not installed'),
    pytest.mark.skipif(
        torch.cuda.is_available() or os.environ.get('TRITON_INTERPRET') == '1',
        reason='the kernels themselves run here',
    ),
]


def compile_all(dtype, share, target, patch, cache):
    """Every kernel, compiled by what calls do before they launch; ``{name: kernel}``."""
    from triton.backends.compiler import GPUTarget

    class Driver:
        def get_current_target(self):
            return GPUTarget('cuda', target, 32)

        def get_current_device(self):
            return target  # Triton keeps what it compiled for each device

        def get_current_stream(self, device):
            return 0

    compiled = []

    def compile_only(kernel):
        run = kernel.run
        return lambda *args, warmup, **kwargs: compiled.append(run(*args, warmup=True, **kwargs))

    for kernel in (backend._forward_kernel, backend._backward_kernel, backend._scatter_kernel):
        patch.setattr(kernel, 'run', compile_only(kernel))
    patch.setattr(backend.triton.runtime.driver, '_active', Driver())
    patch.setenv('TRITON_CACHE_DIR', str(cache))
    x, offset, grad = problem((1, 8, 8), 32, share, dtype)
    grad_mean = torch.zeros(1, 3 * x.shape[3], dtype=dtype)
    backend.forward(x, offset)
    backend.forward_mean(x, offset)
    backend.backward(grad, x, offset)
    backend.backward_mean(grad, grad_mean, x, offset)
    patch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: True)
    backend.backward_mean(grad, grad_mean, x, offset)
    return dict(zip(KERNELS, compiled, strict=True)), x, offset


def resources(name, kernel, x, offset):
    """Registers and spilled bytes of a thread, and the bytes it accesses per channel of a token.

    All accesses to global memory count, also those that a cache serves and those that a mask may
    leave out.
    """
    cubin = Path(os.environ['TRITON_CACHE_DIR'], 'kernel.cubin')
    cubin.write_bytes(kernel.asm['cubin'])
    tool = Path(backend.triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    command = [tool, '-res-usage', cubin]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {key: int(value) for key, value in re.findall(r'\b(REG|STACK|LOCAL):(\d+)', text)}
    accesses = re.findall(
        r'(?:ld|st|red|atom)\.global\S*?(?:\.v(\d))?\.[bufs](\d+)\s', kernel.asm['ptx']
    )
    moved = sum(int(vector or 1) * int(bits) // 8 for vector, bits in accesses)
    *_, tile = backend._lines(x, offset, 0) if 'scatter' in name else backend._tiles(x, offset)
    tokens = tile.get('ROWS', 1) * tile.get('COLUMNS', 1)
    elements = tokens * tile['BLOCK'] * tile['SHARE']
    per_element = moved * 32 * tile['num_warps'] / elements
    return used['REG'], used['STACK'] + used['LOCAL'], round(per_element, 2)


def rows(dtype, share, target, kernels, x, offset):
    key = str(dtype).removeprefix('torch.'), str(share), f'sm_{target}'
    return {(n, *key): resources(n, k, x, offset) for n, k in kernels.items()}


def read_table():
    """The version of Triton that the table is of, and its rows."""
    with FILE.open() as file:
        version = file.readline().split()[-1]
        lines = list(csv.DictReader(file))
    return version, {tuple(r[k] for k in KEY): [float(r[v]) for v in VALUES] for r in lines}


@pytest.mark.parametrize('target', TARGETS)
@pytest.mark.parametrize(('dtype', 'share', 'access'), CASES, ids=str)
def test_kernels_take_no_more_than_before(dtype, share, access, target, monkeypatch, tmp_path):
    kernels, x, offset = compile_all(dtype, share, target, monkeypatch, tmp_path)
    for name in ('forward', 'forward_mean', 'backward', 'backward_mean', 'backward_offset'):
        assert len(re.findall(rf'\.global\S*\.{access}\s', kernels[name].asm['ptx'])) >= 6, name
    found = rows(dtype, share, target, kernels, x, offset)
    assert not any(spills for _, spills, _ in found.values()), found
    version, table = read_table()
    if backend.triton.__version__ != version:
        pytest.skip(f'the table is of Triton {version}')
    for key, values in found.items():
        assert all(v <= t for v, t in zip(values, table[key], strict=True)), (
            f'{key} takes {values}, the table says {table[key]}'
        )


def test_table_has_what_is_tested():
    keys = {(n, str(d).removeprefix('torch.'), str(s), f'sm_{t}')
            for n in KERNELS for d, s, _ in CASES for t in TARGETS}  # fmt: skip
    assert set(read_table()[1]) == keys


if __name__ == '__main__':
    import tempfile

    with FILE.open('w', newline='') as file:
        version = backend.triton.__version__
        file.write(f'# per thread, and bytes per channel of a token; Triton {version}\n')
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([*KEY, *VALUES])
        for dtype, share, _ in CASES:
            for target in TARGETS:
                with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as cache:
                    kernels = compile_all(dtype, share, target, patch, cache)
                    found = rows(dtype, share, target, *kernels)
                    writer.writerows([*key, *values] for key, values in found.items())
