"""The check for GPUs, run on a CPU with tiny sizes."""

import weakref
from contextlib import nullcontext
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from commands import run
from marks import compiled, compiles, float16_on_cpu
from mmatm.measuring import gpu_check, models, timing
from mmatm.measuring.gpu_check import Check, Sizes
from mmatm.measuring.timing import PEERS
from mmatm.ops import cpp
from narrow import narrow

TINY = dict(depths=(2, 2, 2, 2), widths=(8, 12, 16, 24), mlp_ratios=(2, 2, 2, 2),
            shares=(2, 4, 4, 8), interval=2)  # fmt: skip
SIZES = dict(
    channels=((8, 2), (9, 3)), maps=((1, 1, 1), (2, 3, 5)), large=(9, 8), arch=TINY, image=(64, 96),
    small=32, batches=(1, 2), repeats=1, compiler='eager', peers=('tiny',),
    trained=(torch.float32, torch.bfloat16),  # convolutions in float16 are slow on a CPU
    heads={'mmdet': ('retinanet',), 'mmseg': ('fpn',)}, compile_heads=False,
)  # fmt: skip

pytestmark = compiled


@compiles
def test_whole_logic_on_a_cpu(monkeypatch):
    monkeypatch.setitem(PEERS, 'tiny', 'test_resnet')
    build = models.build

    def build_narrow(config):
        narrow(config)
        return build(config)

    monkeypatch.setattr(models, 'build', build_narrow)
    # Trimming the memory of a process that has run other tests takes half a second per case.
    monkeypatch.setattr(timing, 'peak_memory', lambda call, device: 1.0)
    check = Check('cpu', Sizes(**SIZES))
    page = check.run()
    assert check.faults == []
    assert page.count('4 of 4 right') == 16
    for row in ('backbone, compiled', 'stage 3', 'forward + backward', 'tiny', 'per image'):
        assert f'| {row}' in page or row in page
    assert 'Left out' not in page
    tables = [line for line in page.splitlines() if line.startswith('| ---')]
    assert len(tables) >= 6


def test_wrong_kernel_is_a_fault(monkeypatch):
    kernel = cpp.forward
    monkeypatch.setattr(cpp, 'forward', lambda x, o: kernel(x, o) * (2 if o.shape[-1] == 6 else 1))
    check = Check('cpu', Sizes(**SIZES))
    check.kernels()
    assert len(check.faults) == 8
    assert 'forward differs from plain PyTorch' in check.faults[0]
    assert '2 of 4 right' in ''.join(check.lines)


def test_what_fails_is_a_fault_and_the_rest_goes_on(monkeypatch):
    check = Check('cpu', Sizes(**{**SIZES, 'heads': {'mmdet': ('nothing',)}}))
    monkeypatch.setattr(gpu_check, 'available_backends', lambda device: ['torch'])
    kernel = cpp.forward
    monkeypatch.setattr(cpp, 'forward', lambda x, o: kernel(x, o) + 1)
    check.large()
    for part in ('backbone', 'sampling', 'models', 'batch_sizes'):
        monkeypatch.setattr(check, part, lambda: None)
    monkeypatch.setattr(check, 'layer', lambda: 1 / 0)
    page = check.run()
    expected = ['large tensors: the samples differ', 'torch serves on cpu, not cpp']
    expected += ['nothing, eager: '] if find_spec('mmdet') else []
    expected += ['layer: ZeroDivisionError: division by zero']
    assert len(check.faults) == len(expected)
    for fault, words in zip(check.faults, expected, strict=True):
        assert fault.startswith(words)
        assert f'- {fault}' in page
    assert 'Everything agrees' not in page


def test_step_that_fails_is_a_fault():
    check = Check('cpu', Sizes(**SIZES))
    check._steps('head', torch.nn.Linear(2, 1), lambda: torch.zeros(2) @ torch.zeros(3))
    assert [fault.partition(':')[0] for fault in check.faults] == [
        'head, torch.float32', 'head, torch.bfloat16'
    ]  # fmt: skip
    assert '| head | failed | failed |' in check.lines


def test_graph_of_a_failed_step_is_freed():
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError('no memory')

    losses, model = [], torch.nn.Linear(2, 1)

    def loss():
        assert not any(value() is not None for value in losses)
        value = Failing.apply(model.weight)
        losses.append(weakref.ref(value))
        return value

    check = Check('cpu', Sizes(**SIZES))
    check._steps('head', model, loss)
    assert len(check.faults) == 2
    assert all('no memory' in fault for fault in check.faults)


def test_compiled_heads_come_last(monkeypatch):
    parts = []
    check = Check('cpu', Sizes(**{**SIZES, 'compile_heads': True}))
    monkeypatch.setattr(check, '_part', lambda name, part: parts.append(name))
    check.run()
    assert parts[-2:] == ['batch sizes', 'compiled heads']


def test_old_gpu_computes_in_float16(monkeypatch):
    for capability, half in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda c=capability: c)
        check = Check('cuda', Sizes(**SIZES))
        assert check.half == half
        assert (torch.bfloat16 in check.trained) == (half == torch.bfloat16)


def test_captured_calls(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', lambda: SimpleNamespace(replay='replay'))
    monkeypatch.setattr(torch.cuda, 'graph', lambda graph: nullcontext())
    assert timing.captured(lambda: calls.append(1), 3) == 'replay'
    assert len(calls) == 4  # and one that compiles


def test_heads_need_the_mm_packages(monkeypatch):
    pytest.importorskip('mmengine')
    check = Check('cpu', Sizes(**SIZES))
    for package, said in (('mmcv', 'mmengine and mmcv'), ('mmdet', 'Heads of mmdet')):
        monkeypatch.setattr(gpu_check, 'find_spec', lambda name, p=package: p != name or None)
        monkeypatch.setattr(check.sizes, 'heads', {'mmdet': ('retinanet',)})
        check.heads()
        assert said in check.lines[-1]
    assert check.faults == []


@float16_on_cpu
def test_loss_that_is_not_finite_is_a_fault():
    check = Check('cpu', Sizes(**{**SIZES, 'trained': (torch.float32, torch.float16)}))
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.weight, 1e4)
    check._steps('head', model, lambda: model(torch.full((1, 2), 3.0)).square().sum())
    assert any('float16: a gradient is missing or not finite' in fault for fault in check.faults)


def test_without_time_it_says_what_is_missing():
    check = Check('cpu', Sizes(**{**SIZES, 'minutes': 0}))
    check.models()
    check.batch_sizes()
    assert ''.join(check.lines).count('Left out for lack of time') == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_is_one_sentence():
    printed = run('tools/gpu_check.py', code=1)
    assert printed.strip().splitlines() == [
        'gpu-check needs a GPU, but torch sees none on this machine'
    ]
