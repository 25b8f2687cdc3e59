import subprocess
import sys

import pytest
import torch

from mmatm.utils import memory

PROGRAM = """
import resource
import torch
from mmatm.utils.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):  # the first ones extend what is kept
        torch.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
assert keep_freed_memory()
print(before, faults())
"""


@pytest.mark.skipif(
    sys.platform != 'linux' or torch.cuda.is_available(), reason='for glibc, without a GPU'
)
def test_freed_memory_is_used_again():
    out = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    before, after = map(int, out.stdout.split())
    assert after < before / 2  # pages that the system had to clear


@pytest.mark.parametrize('variable', ['MALLOC_TRIM_THRESHOLD_', 'GLIBC_TUNABLES'])
def test_settings_of_the_user_remain(variable, monkeypatch):
    monkeypatch.setenv(variable, '')
    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda *_: pytest.fail('the settings were changed'))
    assert not memory.keep_freed_memory()
