"""Comparisons of ATMNet with the published formulation and with other backbones."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn

from ..models import ARCHS, ActiveTokenMixer, ATMNet
from ..models.published import use_published_formulation
from ..ops import active_sample, available_backends
from ..packaged import model_names
from .floor import products_alone
from .timing import PEERS, Comparison, Target, captured

STRIDES = (4, 8, 16, 32)


def _by(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


class Suite:
    """Builds the comparisons; every method is one, named as on the command line.

    Args:
        device: ``'cpu'`` or ``'cuda'``.
        dtype: float32, or the dtype of autocast.
        batch: images per call.
        compiled: on a GPU, also measure compiled backbones.
    """

    arch: ClassVar = ARCHS['t']
    peers: ClassVar = PEERS
    detectors: ClassVar = {'Mask R-CNN': 'mask_rcnn_atmnet_t'}
    segmentors: ClassVar = {'UperNet': 'upernet_atmnet_t', 'Semantic FPN': 'fpn_atmnet_t'}
    large, medium, small = (800, 1344), (512, 512), (224, 224)  # height and width
    squares = (256, 512, 1024, 1600)

    def __init__(
        self,
        device: str = 'cpu',
        dtype: torch.dtype = torch.float32,
        batch: int = 1,
        compiled: bool = False,
    ):
        self.device, self.dtype, self.batch, self.compiled = device, dtype, batch, compiled

    def autocast(self, dtype: torch.dtype | None = None) -> AbstractContextManager:
        dtype = dtype or self.dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.device, dtype)

    def forward(
        self, model: nn.Module, image: Tensor, dtype: torch.dtype | None = None
    ) -> Callable[[], None]:
        def call() -> None:
            with torch.inference_mode(), self.autocast(dtype):
                model(image)

        return call

    def training_step(self, model: nn.Module, *inputs: Tensor) -> Callable[[], None]:
        def call() -> None:
            with self.autocast():
                out = model(*inputs)
                outputs = [out] if isinstance(out, Tensor) else out
                loss = torch.stack([o.float().mean() for o in outputs]).sum()
            loss.backward()
            for parameter in model.parameters():
                parameter.grad = None

        return call

    def backbones(self, size: tuple[int, int], train: bool = False) -> dict[str, nn.Module]:
        """ATMNet-T, the published formulation with the same weights, and the peers."""
        models = {'mmatm': ATMNet(self.arch)}
        models['published'] = use_published_formulation(ATMNet(self.arch))
        models['published'].load_state_dict(models['mmatm'].state_dict())
        if self.device == 'cuda' and self.compiled:
            models['mmatm, compiled'] = torch.compile(models['mmatm'])
        for name, timm_name in self.peers.items():
            sized = dict(img_size=size, strict_img_size=False) if name == 'swin-t' else {}
            models[name] = timm.create_model(timm_name, features_only=True, **sized)
        return {name: model.to(self.device).train(train) for name, model in models.items()}

    def sampling(self) -> list[Comparison]:
        """The operator alone at the stages of a large image, against copying its output."""
        comparisons = []
        for stage, (x, offset, _) in enumerate(self.layer_inputs()):
            out = active_sample(x, offset)
            cases: dict[str, Callable[[], Any]] = {}
            for backend in available_backends(x.device):
                label = 'mmatm' if not cases else backend
                cases[label] = partial(active_sample, x, offset, backend=backend)
            cases['copy'] = partial(torch.empty_like(out).copy_, out)
            if self.device == 'cuda':
                cases = {name: captured(call) for name, call in cases.items()}
            comparisons.append(Comparison(f'sampling, stage {stage}', cases))

        def all_stages(name: str) -> None:
            for comparison in comparisons:
                comparison.cases[name]()  # drops its output before the next, as a model does

        total: dict[str, Callable[[], Any]] = {
            name: partial(all_stages, name) for name in comparisons[0].cases
        }
        target = Target('copy', 4.0, at_least=False)
        return [*comparisons, Comparison('sampling, four stages', total, [target])]

    def layer_inputs(self) -> list[tuple[Tensor, Tensor, ActiveTokenMixer]]:
        inputs = []
        shares = zip(STRIDES, self.arch['widths'], self.arch['shares'], strict=True)
        for stride, dim, share in shares:
            size = (self.batch, *(side // stride for side in self.large))
            x = torch.randn(*size, dim, device=self.device)
            offset = 2 * torch.randn(*size, 2 * dim // share, device=self.device)
            mixer = ActiveTokenMixer(dim).to(self.device)
            if self.dtype != torch.float32:
                x, offset = x.to(self.dtype), offset.to(self.dtype)
            inputs.append((x, offset, mixer))
        return inputs

    def layer(self) -> list[Comparison]:
        """The token mixer from sampling to projection at the same four shapes, summed."""
        mixers = [mixer for *_, mixer in self.layer_inputs()]
        layers = nn.ModuleList(mixers)
        published: Any = nn.ModuleList(ActiveTokenMixer(m.dim) for m in mixers).to(self.device)
        published.load_state_dict(layers.state_dict())
        use_published_formulation(published)
        inputs = [(x.requires_grad_(), o.requires_grad_()) for x, o, _ in self.layer_inputs()]

        def forward(mixers: nn.ModuleList) -> Callable[[], None]:
            def call() -> None:
                with torch.no_grad(), self.autocast():
                    for mixer, (x, offset) in zip(mixers, inputs, strict=True):
                        mixer(x, offset)

            return call

        def backward(mixers: nn.ModuleList) -> Callable[[], None]:
            def call() -> None:
                for mixer, (x, offset) in zip(mixers, inputs, strict=True):
                    with self.autocast():
                        out = mixer(x, offset)
                    torch.autograd.grad(out, (x, offset, *mixer.parameters()), out.detach())

            return call

        both = {'mmatm': layers, 'published': published}
        return [
            Comparison(
                f'ATM layer, forward, four stages of {_by(self.large)}',
                {name: forward(mixers) for name, mixers in both.items()},
                [Target('published', 7.0)],
            ),
            Comparison(
                'ATM layer, forward + backward, the same',
                {name: backward(mixers) for name, mixers in both.items()},
                [Target('published', 8.0 if self.device == 'cpu' else 4.0)],
                memory=True,
            ),
        ]

    def backbone(self) -> list[Comparison]:
        """Inference of ATMNet-T and its peers."""
        comparisons = []
        for size, batch in ((self.large, self.batch), (self.small, 1), (self.small, 16)):
            image = torch.randn(batch, 3, *size, device=self.device)
            large = size == self.large
            models = self.backbones(size)
            limit = 0.9 if large else 1.0
            targets = [Target('convnext-t', limit, at_least=False)]
            if large:
                targets += [Target('swin-t', limit, at_least=False), Target('published', 2.2)]
            comparisons.append(
                Comparison(
                    f'ATMNet-T forward, {_by(size)}, batch {batch}',
                    {name: self.forward(model, image) for name, model in models.items()},
                    targets,
                    images=batch,
                    memory=large,
                )
            )
        return comparisons

    def train(self) -> list[Comparison]:
        """Forward and backward of ATMNet-T and its peers."""
        large = self.device == 'cuda'
        size, batch = (self.large, self.batch) if large else (self.medium, 2 * self.batch)
        image = torch.randn(batch, 3, *size, device=self.device)
        models = self.backbones(size, train=True)
        return [
            Comparison(
                f'ATMNet-T training step, {_by(size)}, batch {batch}',
                {name: self.training_step(model, image) for name, model in models.items()},
                [
                    Target('published', 3.2),
                    Target('convnext-t', 0.95, at_least=False),
                    Target('published', 0.6, at_least=False, figure='mebibytes'),
                    Target('convnext-t', 1.0, at_least=False, figure='mebibytes'),
                ],
                images=batch,
                memory=True,
            )
        ]

    def linearity(self) -> list[Comparison]:
        """Whether the time of ATMNet-T grows with the number of pixels, 256² to 1600²."""
        model = ATMNet(self.arch).to(self.device).eval()
        calls = {
            size: self.forward(model, torch.randn(1, 3, size, size, device=self.device))
            for size in self.squares
        }
        return [Comparison('time, ATMNet-T forward', {f'{s}x{s}': c for s, c in calls.items()})]

    def floor(self) -> list[Comparison]:
        """ATMNet-T beside its own matrix products and convolutions, computed and nothing else."""
        if self.device != 'cpu' or self.dtype != torch.float32:
            print('floor: left out, it needs --device cpu and --dtype float32')
            return []
        model, comparisons = ATMNet(self.arch).eval(), []
        for size, bound in ((self.large, 1.35), (self.medium, 1.45), (self.small, 1.45)):
            image = torch.randn(1, 3, *size)
            comparisons.append(
                Comparison(
                    f'ATMNet-T beside its products alone, {_by(size)}',
                    {
                        'mmatm': self.forward(model, image),
                        'products': products_alone(model, image),
                    },
                    [Target('products', bound, at_least=False)],
                )
            )
        return comparisons

    def bfloat16(self) -> list[Comparison]:
        """ATMNet-T under bfloat16 autocast against float32."""
        model = ATMNet(self.arch).to(self.device).eval()
        image = torch.randn(1, 3, *self.large, device=self.device)
        cases = {
            'mmatm': self.forward(model, image, torch.bfloat16),
            'float32': self.forward(model, image, torch.float32),
        }
        # Where the processor lacks bfloat16 it is emulated, and there is nothing to reach.
        native = self.device == 'cuda' or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        targets = [Target('float32', 1.5)] if native else []
        return [Comparison('ATMNet-T forward, bfloat16 autocast', cases, targets)]

    def detector(self) -> list[Comparison]:
        """Mask R-CNN, images per second of inference at 800x1344 with 100 boxes kept."""
        return [self._inference(*names, self.large) for names in self.detectors.items()]

    def segmentor(self) -> list[Comparison]:
        """UperNet and Semantic FPN, images per second of inference at 512x512."""
        return [self._inference(*names, self.medium) for names in self.segmentors.items()]

    def onnx(self) -> list[Comparison]:
        """The formulations of sampling in onnxruntime, and whole backbones there."""
        if self.device != 'cpu' or any(find_spec(n) is None for n in ('onnx', 'onnxruntime')):
            print("onnx: left out, it needs --device cpu and pip install 'mmatm[export]'")
            return []
        from ..export.graph import trace
        from ..export.plain import plain_layers
        from ..export.sampling import FORMULATIONS
        from ..export.verify import Session

        class Sampling(nn.Module):
            def __init__(self, sample: Callable[[Tensor, Tensor], Tensor]):
                super().__init__()
                self.forward = sample

        def run(model: nn.Module, *inputs: Tensor) -> Callable[[], None]:
            names = ['image', 'offset'][: len(inputs)]
            axes = {name: {0: 'batch', 1: 'height', 2: 'width'} for name in names}
            if len(inputs) == 1:
                axes['image'] = {0: 'batch', 2: 'height', 3: 'width'}
            axes = {} if isinstance(model, timm.models.FeatureListNet) else axes
            outputs = ['out'] if len(inputs) == 2 else [f'level{i}' for i in range(4)]
            proto = trace(model.eval(), inputs, names, outputs, axes)
            session = Session(proto.SerializeToString(), torch.get_num_threads()).session
            values = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            return lambda: session.run(None, values)

        x, offset, _ = self.layer_inputs()[0]
        sampling = {name: run(Sampling(f), x, offset) for name, f in FORMULATIONS.items()}
        for name, f in FORMULATIONS.items():
            error = (f(x, offset) - active_sample(x, offset)).abs().max()
            print(f'onnx: {name} differs from active_sample by at most {error:.1e}')
        image = torch.randn(self.batch, 3, *self.medium)
        models = self.backbones(self.medium)
        models.pop('published')
        eager = self.forward(models['mmatm'], image)
        with plain_layers(models['mmatm'], *self.medium):
            cases = {'mmatm': run(models['mmatm'], image), 'eager': eager}
        cases |= {n: run(models[n], image) for n in ('convnext-t', 'swin-t') if n in models}
        targets = [Target('convnext-t', 1.0, False), Target('eager', 1.3, False)]
        return [
            Comparison(f'sampling in onnxruntime, stage 0 of {_by(self.large)}', sampling),
            Comparison(f'ATMNet-T in onnxruntime, {_by(self.medium)}', cases, targets, self.batch),
        ]

    def _inference(self, name: str, config: str, size: tuple[int, int]) -> Comparison:
        """The model of a config in both formulations, and on a ResNet-50."""
        from mmengine.config import Config

        from .models import build, random_batch, set_shape

        cfg = Config.fromfile(model_names()[config])
        set_shape(cfg.model, *size)
        models: dict[str, Any] = {'mmatm': build(cfg), 'published': build(cfg)}
        use_published_formulation(models['published'])
        for owner in ('neck', 'decode_head', 'auxiliary_head'):
            if owner in cfg.model and cfg.model[owner].in_channels == [64, 128, 320, 512]:
                cfg.model[owner].in_channels = [256, 512, 1024, 2048]
            elif owner == 'auxiliary_head' and owner in cfg.model:
                cfg.model[owner].in_channels = 1024
        cfg.model.backbone = dict(type='ResNet', depth=50)
        models['resnet-50'] = build(cfg)
        models = {n: m.to(self.device).eval() for n, m in models.items()}
        data = random_batch(models['mmatm'], size, self.batch)

        def predict(model: Any) -> Callable[[], None]:
            def call() -> None:
                with torch.inference_mode(), self.autocast():
                    model.test_step(data)

            return call

        return Comparison(
            f'{name} with ATMNet-T, inference, {_by(size)}, batch {self.batch}',
            {name: predict(model) for name, model in models.items()},
            images=self.batch,
            memory=True,
        )


NAMES = (
    *('sampling', 'layer', 'backbone', 'train', 'linearity', 'floor', 'bfloat16'),
    *('detector', 'segmentor', 'onnx'),
)


def report(comparison: Comparison, results: dict[str, dict[str, float]]) -> list[str]:
    """Print one comparison; the lines that say whether its targets are met."""
    print(f'\n{comparison.name}')
    ours = results.get('mmatm', next(iter(results.values())))
    for name, result in results.items():
        line = f'  {name:16} {1e3 * result["seconds"]:10.2f} ms'
        line += f'  ({1e3 * result["least"]:.2f} to {1e3 * result["greatest"]:.2f})'
        line += f'   {result["seconds"] / ours["seconds"]:6.2f}x'
        if 'images_per_second' in result:
            line += f'  {result["images_per_second"]:8.2f} images/s'
        if 'mebibytes' in result:
            line += f'  {result["mebibytes"]:8.0f} MiB'
        print(line)
    lines = []
    for target in comparison.targets:
        ratio = target.ratio(results)
        if ratio is None:
            continue
        met = ratio >= target.bound if target.at_least else ratio <= target.bound
        what = f'{target.other} / mmatm' if target.at_least else f'mmatm / {target.other}'
        what += ', memory' if target.figure == 'mebibytes' else ''
        sign = '>=' if target.at_least else '<='
        mark = 'met' if met else 'SHORT'
        lines.append(
            f'{comparison.name:52} {what:28} {sign} {target.bound:4.2f}  {ratio:6.2f}  {mark}'
        )
    if comparison.name.startswith('time,'):
        per_pixel = [r['seconds'] / int(n.split('x')[0]) ** 2 for n, r in results.items()]
        spread = max(per_pixel) / min(per_pixel)
        mark = 'met' if spread <= 1.3 else 'SHORT'
        lines.append(
            f'{comparison.name:52} {"per pixel, most / least":28} <= 1.30  {spread:6.2f}  {mark}'
        )
    return lines


def draw(everything: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """A bar chart of times relative to mmatm, one group per comparison."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    groups = {name: r for name, r in everything.items() if 'mmatm' in r}
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(8, 0.6 + 0.3 * sum(len(r) + 1.5 for r in groups.values())),
        height_ratios=[len(r) + 1.5 for r in groups.values()], layout='constrained', squeeze=False,
    )  # fmt: skip
    for axis, (name, results) in zip(axes[:, 0], groups.items(), strict=True):
        ratios = {n: r['seconds'] / results['mmatm']['seconds'] for n, r in results.items()}
        colors = ['tab:blue' if n.startswith('mmatm') else 'tab:gray' for n in ratios]
        bars = axis.barh(list(ratios), list(ratios.values()), color=colors)
        axis.bar_label(bars, [f'{r:.2f}' for r in ratios.values()], padding=3)
        axis.invert_yaxis()
        axis.set_title(name, loc='left', fontsize=10)
        axis.set_xlim(0, 1.12 * max(ratios.values()))
        axis.axvline(1, color='black', linewidth=0.8)
    axes[-1, 0].set_xlabel('time relative to mmatm (shorter is faster)')
    figure.savefig(path, dpi=110)
