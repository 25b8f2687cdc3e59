"""Calls timed in turn in one process, and the ratios that they must reach."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

# Backbones to compare with, and their names in timm.
PEERS = {
    'convnext-t': 'convnext_tiny',
    'swin-t': 'swin_tiny_patch4_window7_224',
    'pvtv2-b2': 'pvt_v2_b2',
    'resnet-50': 'resnet50',
}


@dataclass
class Target:
    """``other / mmatm`` must reach ``bound`` (``at_least``), or ``mmatm / other`` stay below it."""

    other: str
    bound: float
    at_least: bool = True
    figure: str = 'seconds'

    def ratio(self, results: dict[str, dict[str, float]]) -> float | None:
        """The measured ratio, None if one side was not measured."""
        ours, other = results.get('mmatm', {}), results.get(self.other, {})
        if not ours.get(self.figure) or not other.get(self.figure):
            return None
        ratio = other[self.figure] / ours[self.figure]
        return ratio if self.at_least else 1 / ratio


@dataclass
class Comparison:
    """Calls that are timed in turn."""

    name: str
    cases: dict[str, Callable[[], Any]]
    targets: list[Target] = field(default_factory=list)
    images: int = 0  # per call, for images per second; 0 where that has no meaning
    memory: bool = False


def timed(call: Callable[[], Any], device: str) -> float:
    """Seconds of one call, with the device idle before and after."""
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def captured(call: Callable[[], Any], times: int = 1) -> Callable[[], None]:
    """``times`` calls as one CUDA graph, because Python takes longer than a short kernel."""
    call()  # what compiles cannot be captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            call()
    return graph.replay


def peak_memory(call: Callable[[], Any], device: str) -> float:
    """MiB that one call needs above what is held before it; NaN where that cannot be measured."""
    gc.collect()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path('/proc/self/clear_refs').exists():
        return float('nan')
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept would hide what the call needs
    Path('/proc/self/clear_refs').write_text('5')  # sets the high-water mark to what is held now
    before = _status('VmRSS')
    call()
    return (_status('VmHWM') - before) / 2**10


def _status(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure(comparison: Comparison, repeats: int, device: str) -> dict[str, dict[str, float]]:
    """Median, least and greatest seconds of every case, and its peak memory where asked for.

    ``cpu_seconds`` is the median of the processor time, summed over threads. Other jobs on the
    machine disturb it less.
    """
    seconds: dict[str, list[float]] = {name: [] for name in comparison.cases}
    processor: dict[str, list[float]] = {name: [] for name in comparison.cases}
    bar = tqdm(total=(repeats + 1) * len(seconds), desc=comparison.name, leave=False, disable=None)
    for round_ in range(repeats + 1):
        for name, call in comparison.cases.items():
            start = time.process_time()
            elapsed = timed(call, device)
            if round_:  # the first round warms up
                seconds[name].append(elapsed)
                processor[name].append(time.process_time() - start)
            bar.update()
    bar.close()
    results = {}
    for name, values in seconds.items():
        results[name] = dict(
            seconds=statistics.median(values), least=min(values), greatest=max(values),
            cpu_seconds=statistics.median(processor[name]),
        )  # fmt: skip
        if comparison.images:
            results[name]['images_per_second'] = comparison.images / results[name]['seconds']
        if comparison.memory:
            results[name]['mebibytes'] = peak_memory(comparison.cases[name], device)
    return results
