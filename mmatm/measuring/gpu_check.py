"""Whether everything is correct on a GPU, and how fast it is there, as one page of Markdown."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..models import ARCHS, ActiveTokenMixer, Trunk
from ..models.published import use_published_formulation
from ..ops import available_backends, checked, cpp, reference, triton
from .timing import PEERS, Comparison, captured, measure

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LOSS_SCALE = 1024.0  # for float16
CAPTURED = 20  # calls in a CUDA graph
HEADS = {
    'mmdet': ('mask_rcnn', 'retinanet', 'cascade_mask_rcnn', 'dino', 'mask2former'),
    'mmseg': ('upernet', 'fpn'),
}


@dataclass
class Sizes:
    """What the check runs; the defaults are for a GPU and take less than 8 minutes."""

    # Channels, channels per offset: of all architectures, and odd ones.
    channels: tuple[tuple[int, int], ...] = (
        *((64, 2), (128, 4), (320, 4), (512, 8), (96, 2), (768, 8), (9, 3), (33, 1), (40, 40)),
    )
    maps: tuple[tuple[int, int, int], ...] = (
        *((2, 3, 10), (1, 1, 1), (1, 1, 57), (1, 57, 1), (1, 13, 13), (2, 25, 42)),
    )
    large: tuple[int, int] = (4099, 128)  # side and channels, 2 ** 31 elements together
    arch: str | dict = 't'
    image: tuple[int, int] = (800, 1344)
    small: int = 224
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    repeats: int = 10
    compiler: str = 'inductor'
    trained: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)
    peers: tuple[str, ...] = tuple(PEERS)
    heads: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(HEADS))
    compile_heads: bool = True
    minutes: float = 7.0  # what would start later is left out, and said to be


class Backbone(Trunk):
    """The maps of all stages."""

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.forward_stages(x):  # torch compiles this loop, but no list of a generator
            outputs.append(stage)
        return outputs


class Check:
    """Runs the parts in turn and collects their lines and faults.

    Args:
        device: ``'cuda'``, or ``'cpu'`` to try the check itself.
        sizes: What to run.

    Attributes:
        faults: What is wrong, one sentence each.
        lines: The page.
    """

    def __init__(self, device: str = 'cuda', sizes: Sizes | None = None):
        self.device, self.sizes = device, sizes or Sizes()
        self.faults: list[str] = []
        self.lines: list[str] = []
        self.deadline = time.monotonic() + 60 * self.sizes.minutes
        self.module: Any = triton if device == 'cuda' else cpp
        gpu = device == 'cuda' and not torch.version.hip
        has_bfloat16 = not gpu or torch.cuda.get_device_capability() >= (8, 0)
        self.half = torch.bfloat16 if has_bfloat16 else torch.float16
        self.trained = [d for d in self.sizes.trained if has_bfloat16 or d != torch.bfloat16]

    def run(self) -> str:
        """Run everything; the page."""
        serving = available_backends(self.device)[0]
        wanted = self.module.__name__.rpartition('.')[2]
        if serving != wanted:
            self.faults.append(f'{serving} serves on {self.device}, not {wanted}')
        else:
            self._part('kernels', self.kernels)
            self._part('large tensors', self.large)
        self._part('backbone', self.backbone)
        self._part('heads', self.heads)
        self._part('sampling', self.sampling)
        self._part('layer', self.layer)
        self._part('models', self.models)
        self._part('batch sizes', self.batch_sizes)
        if self.sizes.compile_heads:  # last, because compiling takes most of the time
            self._part('compiled heads', partial(self.heads, compiled=True))
        verdict = [f'- {fault}' for fault in self.faults] or [
            'Everything agrees with the reference.'
        ]
        return '\n'.join([f'## {self._name()}', '', *verdict, *self.lines, ''])

    def _name(self) -> str:
        gpu = torch.cuda.get_device_name() if self.device == 'cuda' else 'CPU, a trial of the check'
        of_triton = getattr(triton.triton, '__version__', 'missing')
        return f'{gpu} (torch {torch.__version__}, Triton {of_triton})'

    def _part(self, name: str, part: Callable[[], None]) -> None:
        """Run a part, and record an error instead of stopping."""
        try:
            part()
        except Exception as error:  # the other parts still tell something
            self.faults.append(f'{name}: {_short(error)}')
        gc.collect()  # a compiled module is part of a cycle
        if self.device == 'cuda':
            torch.cuda.empty_cache()

    def _late(self, what: str) -> bool:
        late = time.monotonic() > self.deadline
        if late:
            self.lines += ['', f'Left out for lack of time: {what}.']
        return late

    def _table(self, *columns: Any) -> None:
        self.lines += ['', _row(*columns), _row(*('---' for _ in columns))]

    def kernels(self) -> None:
        """Each kernel against plain PyTorch, in four dtypes, on odd shapes."""
        self._table('kernel', *(str(d).removeprefix('torch.') for d in DTYPES))
        for function in filter(partial(hasattr, self.module), checked.DEFINITIONS):
            cells = []
            for dtype in DTYPES:
                wrong = 0
                for channels, share in self.sizes.channels:
                    x = torch.empty(channels, dtype=dtype, device=self.device)
                    offset = torch.empty(2 * channels // share, dtype=dtype, device=self.device)
                    for size in self.sizes.maps:
                        fault = checked.find_fault(self.module, function, x, offset, size)
                        if fault:
                            wrong += 1
                            self.faults.append(
                                f'{function} {fault} ({dtype}, {channels} channels, {share} per '
                                f'offset, map {size})'
                            )
                total = len(self.sizes.channels) * len(self.sizes.maps)
                cells.append(f'{total - wrong} of {total} right')
            self.lines.append(_row(function, *cells))

    def large(self) -> None:
        """A map of more than 2 ** 31 numbers, whose last corner is compared."""
        side, channels = self.sizes.large
        shape, dtype = (1, side, side), torch.float16
        need = 8 * 2 * side * side * channels
        if self.device == 'cuda' and torch.cuda.mem_get_info()[0] < need:
            self.lines += [
                '',
                f'Beyond 2^31 elements: not run, that needs {need >> 30} GiB.',
            ]
            return
        x = torch.zeros(*shape, channels, dtype=dtype, device=self.device)
        x[0, -2:, -2:] = torch.randn(2, 2, channels, device=self.device).to(dtype)
        offset = torch.full((*shape, 2), 0.5, dtype=dtype, device=self.device)
        out = self.module.forward(x, offset)
        grad_x, _ = self.module.backward(out, x, offset)
        corner = (slice(None), slice(-4, None), slice(-4, None))
        x, offset, grad = (t[corner].contiguous().cpu() for t in (x, offset, out))
        leaf = x.requires_grad_()
        expected = reference.active_sample(leaf, offset)
        (expected_grad,) = torch.autograd.grad((expected.float() * grad.float()).sum(), leaf)
        inner = (slice(None), slice(1, None), slice(1, None))
        for what, found, wanted in (
            ('samples', grad, expected),
            ('gradient', grad_x[corner].cpu()[inner], expected_grad[inner]),
        ):
            difference = (found.float() - wanted.float()).abs().max().item()
            if not difference <= 0.01:
                self.faults.append(f'large tensors: the {what} differ by {difference:.3g}')
        self.lines += ['', f'{side * side * channels / 2**31:.2f} · 2^31 elements: run.']

    def backbone(self) -> None:
        """A training step of the backbone, eager and compiled."""

        def loss(model: nn.Module, image: Tensor) -> Tensor:
            return sum((o.float().pow(2).mean() for o in model(image)), torch.zeros(()).to(image))

        torch.manual_seed(0)
        model = Backbone(self.sizes.arch).to(self.device)
        compiled: Any = torch.compile(model, backend=self.sizes.compiler, fullgraph=True)
        image = torch.randn(2, 3, self.sizes.small, self.sizes.small, device=self.device)
        self._table('training step', *self.trained)
        for name, candidate in (('backbone, eager', model), ('backbone, compiled', compiled)):
            self._steps(name, model, partial(loss, candidate, image))

    def heads(self, compiled: bool = False) -> None:
        """A training step of a whole model with each head, where mm is installed."""
        kind = 'Compiled heads' if compiled else 'Heads'
        if any(find_spec(name) is None for name in ('mmengine', 'mmcv')):
            self.lines += ['', f'{kind}: not run, mmengine and mmcv are not installed.']
            return
        from ..engine.compiling import compile_networks
        from .heads import build, loss

        if compiled:
            self._table('training step', *self.trained)
        for package, names in self.sizes.heads.items():
            if find_spec(package) is None:
                self.lines += ['', f'{kind} of {package}: not run, it is not installed.']
                continue
            for name in names:
                label = f'{name}, {"compiled" if compiled else "eager"}'
                if self._late(f'{label}, and later heads'):
                    return
                try:
                    model = build(name).to(self.device)
                    if compiled:
                        torch.compiler.reset()  # torch compiles a function a few times, and no more
                        compile_networks(model, backend=self.sizes.compiler)
                    self._steps(label, model, partial(loss, model))
                except Exception as error:  # the other heads still tell something
                    self.faults.append(f'{label}: {_short(error)}')

    def _steps(self, name: str, model: nn.Module, loss: Callable[[], Tensor]) -> None:
        """Forward and backward in three dtypes: finite, and near float32."""
        from contextlib import nullcontext

        if find_spec('mmengine') is None:
            boxes: Any = nullcontext
        else:
            from ..engine.amp import boxes_in_float32 as boxes
        cells, expected = [], float('nan')
        for dtype in self.trained:
            model.zero_grad()
            value: Any = None  # without the graph of a backward pass that failed
            torch.manual_seed(0)
            half = dtype != torch.float32
            try:
                with boxes() if half else nullcontext(), _autocast(self.device, dtype):
                    value = loss()
                scale = LOSS_SCALE if dtype == torch.float16 else 1.0
                (scale * value).backward()
            except Exception as error:
                self.faults.append(f'{name}, {dtype}: {_short(error)}')
                cells.append('failed')
                continue
            found = value.item()
            expected = expected if half else found
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            finite = all(bool(g.isfinite().all()) for g in gradients)
            cells.append(f'loss {found:.4g}')
            if not gradients or not finite:
                self.faults.append(f'{name}, {dtype}: a gradient is missing or not finite')
            # Matching and sampling of boxes may tip over in half precision.
            if not abs(found - expected) <= (0.2 if half else 0) * abs(expected):
                self.faults.append(f'{name}, {dtype}: loss {found:.4g}, in float32 {expected:.4g}')
        self.lines.append(_row(name, *cells))

    def _stages(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        arch = ARCHS['t'] if isinstance(self.sizes.arch, str) else self.sizes.arch
        height, width = self.sizes.image
        for i, (dim, share) in enumerate(zip(arch['widths'], arch['shares'], strict=True)):
            size = 1, max(1, height >> (i + 2)), max(1, width >> (i + 2))
            x = torch.randn(*size, dim, device=self.device).to(dtype)
            yield x, (2 * torch.randn(*size, 2 * dim // share, device=self.device)).to(dtype)

    def sampling(self) -> None:
        """The forward kernel at the four stages, against copying as many bytes."""
        self._table('sampling', 'dtype', 'time', 'share of copy bandwidth', 'target')
        for dtype in (self.half, torch.float32):
            for stage, (x, offset) in enumerate(self._stages(dtype)):
                moved = 3 * x.nbytes + offset.nbytes
                source = torch.empty(moved // 2, dtype=torch.uint8, device=self.device)
                torch.compiler.reset()  # or it compiles for any size
                plain = torch.compile(reference.active_sample, backend=self.sizes.compiler)
                cases: Any = {
                    'mmatm': partial(self.module.forward, x, offset),
                    'copy': partial(torch.empty_like(source).copy_, source),
                    'compiled plain PyTorch': partial(plain, x, offset),
                }
                calls = 1
                if self.device == 'cuda':
                    calls = CAPTURED
                    cases = {name: captured(call, calls) for name, call in cases.items()}
                times = self._time(f'sampling {stage}', cases)
                share = times['copy'] / times['mmatm']
                against = times['compiled plain PyTorch'] / times['mmatm']
                self.lines.append(
                    _row(f'stage {stage}', dtype, f'{1e6 * times["mmatm"] / calls:.0f} µs; '
                         f'compiled plain PyTorch {against:.1f} times that', f'{share:.2f}',
                         _target(share, 0.7))
                )  # fmt: skip

    def layer(self) -> None:
        """The token mixer, beside torchvision's deformable convolution."""
        self._table('token mixer, four stages', 'dtype', 'mmatm', 'published', 'ratio', 'target')
        for dtype in (self.half, torch.float32):
            inputs = [[t.requires_grad_() for t in pair] for pair in self._stages(torch.float32)]
            ours = nn.ModuleList(ActiveTokenMixer(x.shape[-1]) for x, _ in inputs).to(self.device)
            other: Any = nn.ModuleList(ActiveTokenMixer(x.shape[-1]) for x, _ in inputs).to(
                self.device
            )
            other.load_state_dict(ours.state_dict())
            use_published_formulation(other)

            def step(
                mixers: nn.ModuleList,
                backward: bool,
                dtype: torch.dtype = dtype,
                inputs: Any = inputs,
            ) -> None:
                for mixer, (x, offset) in zip(mixers, inputs, strict=True):
                    with _autocast(self.device, dtype), torch.set_grad_enabled(backward):
                        out = mixer(x, offset)
                    if backward:
                        torch.autograd.grad(out.float().sum(), (x, offset, *mixer.parameters()))

            for name, backward in (('forward', False), ('forward + backward', True)):
                times = self._time(
                    name, {'a': partial(step, ours, backward), 'b': partial(step, other, backward)}
                )
                ratio = times['b'] / times['a']
                milliseconds = (f'{1e3 * times[key]:.2f} ms' for key in 'ab')
                self.lines.append(
                    _row(name, dtype, *milliseconds, f'{ratio:.1f}', _target(ratio, 2))
                )

    def models(self) -> None:
        """Throughput, training step and peak memory of whole backbones."""
        self._table('backbone', 'size', 'dtype', 'inference', 'training step', 'its memory')
        large, small = self.sizes.image, (self.sizes.small, self.sizes.small)
        for size, batch in ((large, 1), (small, max(self.sizes.batches))):
            for dtype in (self.half, torch.float32):
                if self._late(f'backbones at {size[0]}x{size[1]} in {dtype}'):
                    return
                image = torch.randn(batch, 3, *size, device=self.device)
                models = {name: m.to(self.device).eval() for name, m in self._backbones(size)}
                infer: Any = {n: partial(self._infer, m, image, dtype) for n, m in models.items()}
                train: Any = {n: partial(self._train, m, image, dtype) for n, m in models.items()}
                label = f'{size[0]}x{size[1]}'
                inference = self._measure(Comparison(label, infer, images=batch))
                for model in models.values():
                    model.train()  # not in the timed calls, since it takes 1 or 2 ms
                training = self._measure(Comparison(label, train, images=batch, memory=True))
                for name in models:
                    self.lines.append(
                        _row(
                            name, f'{label}, batch {batch}', dtype,
                            f'{inference[name]["images_per_second"]:.1f} images/s',
                            f'{1e3 * training[name]["seconds"]:.1f} ms',
                            f'{training[name]["mebibytes"]:.0f} MiB',
                        )
                    )  # fmt: skip

    def batch_sizes(self) -> None:
        """Time per image by batch size."""
        if self._late('time per image by batch size'):
            return
        model = Backbone(self.sizes.arch).to(self.device).eval()
        self._table('images per call', *self.sizes.batches)
        for dtype in (self.half, torch.float32):
            side = self.sizes.small
            images = {
                n: torch.randn(n, 3, side, side, device=self.device) for n in self.sizes.batches
            }
            cases: Any = {str(n): partial(self._infer, model, i, dtype) for n, i in images.items()}
            times = self._time('batch sizes', cases)
            per_image = (f'{1e3 * times[str(n)] / n:.2f} ms' for n in self.sizes.batches)
            self.lines.append(_row(f'{side}x{side}, {str(dtype)[6:]}, per image', *per_image))

    def _backbones(self, size: tuple[int, int]) -> Iterator[tuple[str, nn.Module]]:
        yield 'mmatm', Backbone(self.sizes.arch)
        for name in self.sizes.peers:
            options: Any = {}
            if name == 'swin-t':
                options = dict(img_size=size, strict_img_size=False)
            yield name, timm.create_model(PEERS[name], features_only=True, **options)

    def _infer(self, model: nn.Module, image: Tensor, dtype: torch.dtype) -> None:
        with torch.inference_mode(), _autocast(self.device, dtype):
            model(image)

    def _train(self, model: nn.Module, image: Tensor, dtype: torch.dtype) -> None:
        with _autocast(self.device, dtype):
            outputs = model(image)
        sum(o.float().mean() for o in outputs).backward()
        model.zero_grad()

    def _measure(self, comparison: Comparison) -> dict[str, dict[str, float]]:
        return measure(comparison, self.sizes.repeats, self.device)

    def _time(self, name: str, cases: dict[str, Callable]) -> dict[str, float]:
        """Median seconds of each case."""
        results = self._measure(Comparison(name, cases))
        return {case: result['seconds'] for case, result in results.items()}


@contextmanager
def _autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    half = dtype in (torch.float16, torch.bfloat16)
    with torch.autocast(device, dtype if half else None, enabled=half):
        yield


def _row(*cells: Any) -> str:
    return f'| {" | ".join(str(c).removeprefix("torch.") for c in cells)} |'


def _target(ratio: float, bound: float) -> str:
    return f'≥ {bound}' if ratio >= bound else f'≥ {bound}, **missed**'


def _short(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
