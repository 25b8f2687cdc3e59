"""The time of a model beside that of its matrix products and convolutions alone, on a CPU."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .timing import timed

aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """``out [M, N] = x [M, K] @ weight [K, N] (+ bias [N])``."""

    rows: int
    inner: int
    columns: int
    bias: bool

    def candidates(self) -> dict[str, Callable[[], Any]]:
        """The product by MKL, and by oneDNN as a convolution with a 1x1 kernel."""
        x, weight = torch.randn(self.rows, self.inner), torch.randn(self.columns, self.inner)
        bias = torch.randn(self.columns) if self.bias else None
        row = x.view(1, 1, self.rows, self.inner).permute(0, 3, 1, 2)
        return {
            'MKL': partial(F.linear, x, weight, bias),
            'oneDNN': partial(F.conv2d, row, weight[..., None, None], bias),
        }


@dataclass(frozen=True)
class Convolution:
    """A convolution with a larger kernel, which torch hands to oneDNN."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool
    channels_last: tuple[bool, bool]  # of the input and of the weights, in memory
    others: tuple[Any, ...]  # stride, padding, dilation, transposed, output padding, groups

    def candidates(self) -> dict[str, Callable[[], Any]]:
        """The convolution as it was called, and with all in channels-last layout."""
        x, weight = torch.randn(self.input), torch.randn(self.weight)
        last_x, last_weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
        if self.channels_last[0]:
            x = last_x
        if self.channels_last[1]:
            weight = last_weight
        bias = torch.randn(self.weight[0]) if self.bias else None
        others: Any = [list(o) if isinstance(o, tuple) else o for o in self.others]
        return {
            'as called': partial(torch.convolution, x, weight, bias, *others),
            'channels last': partial(torch.convolution, last_x, last_weight, bias, *others),
        }


class Recorder(TorchDispatchMode):
    """Counts the products and convolutions of what runs, as ``products``."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product | Convolution] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._record(func.overloadpacket, args)
        return func(*args, **(kwargs or {}))

    def _record(self, operator: Any, args: Any) -> None:
        if operator is aten.mm:
            self._add(args[0], args[1], False)
        elif operator in (aten.addmm, aten.addmm_):
            self._add(args[1], args[2], True)
        elif operator is aten.linear:
            self._add(args[0].flatten(0, -2), args[1].mT, len(args) > 2 and args[2] is not None)
        elif operator in (aten.bmm, aten.baddbmm, aten.baddbmm_):
            left, right = args[-2:] if operator is aten.bmm else args[1:3]
            for a, b in zip(left, right, strict=True):
                self._add(a, b, operator is not aten.bmm)
        elif operator is aten.convolution:
            x, weight, bias, *others = args
            if tuple(weight.shape[2:]) == (1, 1) and others[0] in ([1, 1], [1]) and others[5] == 1:
                for image in x:
                    self._add(image.flatten(1).mT, weight.flatten(1).mT, bias is not None)
                return
            last = tuple(t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight))
            frozen = tuple(tuple(o) if isinstance(o, list) else o for o in others)
            self.products[
                Convolution(tuple(x.shape), tuple(weight.shape), bias is not None, last, frozen)
            ] += 1  # type: ignore[arg-type]

    def _add(self, a: Tensor, b: Tensor, bias: bool) -> None:
        self.products[Product(len(a), len(b), b.shape[1], bias)] += 1


def record(model: nn.Module, image: Tensor) -> Counter[Product | Convolution]:
    """Products and convolutions of one forward pass, and how often each is computed."""
    recorder = Recorder()
    with torch.no_grad(), recorder:  # in inference mode some operators are not taken apart
        model(image)
    return recorder.products


def products_alone(model: nn.Module, image: Tensor, trials: int = 3) -> Callable[[], None]:
    """A call that computes the products of ``model(image)`` on random numbers, and nothing else.

    Each is computed in the faster of its ways, told by the least time of ``trials`` after one more.
    Operands of equal shape are shared.
    """
    chosen = []
    with torch.no_grad():
        for product, count in record(model, image).items():
            ways = product.candidates()
            least = {
                name: min([timed(way, 'cpu') for _ in range(trials + 1)][1:])
                for name, way in ways.items()
            }
            chosen.append((ways[min(least, key=least.__getitem__)], count))

    def call() -> None:
        with torch.no_grad():
            for way, count in chosen:
                for _ in range(count):
                    way()

    return call
