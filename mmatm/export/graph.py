"""An ONNX file of a model, with all that a program needs to use it."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from ..data import first_test_set
from ..models.trunk import MIN_SIZE
from ..utils.files import write_atomically
from ..version import __version__
from . import ExportError, weights_file
from .models import Deployed, Detector
from .plain import plain_layers

OPSETS = range(17, 21)  # LayerNormalization and RoiAlign begin with 17; torch's tracer ends with 20
LARGEST = 2**31 - 2**20  # bytes of a file with its weights inside
_TRACED = (96, 128), (72, 100)  # sizes of the image and of the original, for the trace alone
_LOADING = ('Load', 'Pack')  # beginnings of the transforms that leave an image as it is


def export_onnx(
    model: Deployed,
    path: Path,
    metadata: Mapping[str, str],
    size: tuple[int, int],
    opset: int = OPSETS.start,
    float_input: bool = False,
    external_data: bool = False,
) -> None:
    """Write ``model`` to ``path``, all or nothing.

    Args:
        model: see :func:`.deployed`.
        path: the file.
        metadata: what :func:`describe` makes of the config.
        size: height and width of the images for which it is to be fast.
        opset: release of the operators, one of :data:`OPSETS`.
        float_input: take float images, not uint8; both from 0 to 255.
        external_data: put the weights into a second file, ``path`` + ``.data``.

    Raises:
        ExportError: the opset is not supported, or the file would be too large.
        OSError: it cannot be written.
    """
    if opset not in OPSETS:
        raise ExportError(f'the opset must be {OPSETS.start} to {OPSETS[-1]}, but is {opset}')
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    if weights > LARGEST:
        raise ExportError(f'models above 2 GiB are not exported, but this has {weights} bytes')
    (height, width), original = _TRACED
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 3, height, width), generator=generator)
    image = image.to(torch.float32 if float_input else torch.uint8)
    inputs: tuple[Tensor, ...] = (image, torch.tensor(original))[: len(model.inputs)]
    axes = {n: axes for n, axes in model.axes.items() if n in (*model.inputs, *model.outputs)}
    with plain_layers(model, *size):
        proto = trace(model, inputs, model.inputs, model.outputs, axes, opset)
    proto.producer_name, proto.producer_version = 'mmatm', __version__
    onnx.helper.set_model_props(proto, dict(metadata))
    check_standard(proto)
    write(proto, path, external_data)


def trace(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    opset: int = OPSETS.start,
) -> onnx.ModelProto:
    """The graph of one call, by the older of torch's two exporters.

    The newer one wants proof that sizes fit together, which those that depend on the content of an
    image, such as the number of boxes that are left, do not give.

    Args:
        model: in evaluation mode.
        inputs: of the call.
        input_names: in order.
        output_names: in order.
        axes: the dimensions that may have any size, by name of the input or output.
        opset: release of the operators.
    """
    export: Any = torch.onnx.export
    older = dict(dynamo=False) if 'dynamo' in signature(export).parameters else {}
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that it is the older one; about sizes that never change
        export(
            model, inputs, buffer, opset_version=opset, input_names=list(input_names),
            output_names=list(output_names), dynamic_axes=axes, **older,
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


def check_standard(proto: onnx.ModelProto) -> None:
    """Check the file against the standard, and that it uses nothing else.

    Raises:
        ExportError: it does.
    """
    onnx.checker.check_model(proto)
    custom = sorted({f'{n.domain}::{n.op_type}' for n in proto.graph.node if n.domain})
    if custom:
        raise ExportError(f'the graph has operators outside the standard: {", ".join(custom)}')


def write(proto: onnx.ModelProto, path: Path, external_data: bool = False) -> None:
    """Write a model, and its weights beside it where asked for."""
    # onnx.save_model rejects weights of whose name a file is in the working directory.
    file, weights = weights_file(path), bytearray()
    for tensor in proto.graph.initializer if external_data else ():
        if len(tensor.raw_data) >= 1024:
            set_external_data(tensor, file.name, len(weights), len(tensor.raw_data))
            weights += tensor.raw_data
            tensor.ClearField('raw_data')
    if external_data:
        write_atomically(file, bytes(weights))
    write_atomically(path, proto.SerializeToString())


def describe(cfg: Any, model: Deployed, classes: list[str], palette: Any = None) -> dict[str, str]:
    """The metadata: texts, most of them JSON.

    Raises:
        ExportError: there is no test pipeline, or it prepares images in a way that
            tools/onnx_demo.py cannot.
    """
    values: dict[str, Any] = dict(
        classes=classes, preparation=preparation(cfg), min_size=MIN_SIZE, palette=palette
    )
    if isinstance(model, Detector):
        values.update(
            score_threshold=model.cfg.score_thr,
            iou_threshold=model.cfg.nms.get('iou_threshold'),
            max_per_image=model.cfg.max_per_img,
        )
        if 'mask_thr_binary' in model.cfg:
            values['mask_threshold'] = model.cfg.mask_thr_binary
    texts = {name: json.dumps(value) for name, value in values.items() if value is not None}
    return dict(kind=model.kind, config=Path(cfg.filename).name, mmatm=__version__, **texts)


def preparation(cfg: Any) -> list[dict[str, Any]]:
    """The test pipeline between loading and packing, as ``dict(type=..., ...)``."""
    dataset = first_test_set(cfg)
    if not dataset.get('pipeline'):
        raise ExportError('the config has no test_dataloader.dataset.pipeline')
    known = {
        'Resize': ('scale', 'keep_ratio', 'interpolation', 'backend'),
        'ResizeEdge': ('scale', 'edge', 'interpolation', 'backend'),
        'CenterCrop': ('crop_size',),
    }
    steps = []
    for transform in dataset['pipeline']:
        kind, options = transform['type'], {k: v for k, v in transform.items() if k != 'type'}
        if not isinstance(kind, str):
            kind = kind.__name__
        kind = kind.split('.')[-1]  # of mmdet.Resize
        if kind.startswith(_LOADING):
            continue
        if kind not in known or set(options) - set(known[kind]):
            raise ExportError(
                f'the test pipeline prepares images by {kind} ({options}), which '
                'tools/onnx_demo.py cannot: use Resize, ResizeEdge or CenterCrop'
            )
        steps.append(dict(type=kind, **options))
    return steps


def test_size(steps: list[dict[str, Any]]) -> tuple[int, int]:
    """Height and width of most images after :func:`preparation`."""
    size = (224, 224)
    for step in steps:
        value: Any = step.get('scale', step.get('crop_size'))
        width, height = (value, value) if isinstance(value, int) else value
        size = height, width
    return size
