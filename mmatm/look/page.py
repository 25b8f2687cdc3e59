"""The page: what one image's tokens sample, in one HTML file that needs nothing else."""

import base64
import io
import json
import zlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from .capture import LookError
from .running import Look, Prediction

LIMIT = 10_000_000  # bytes of a page
FINEST, COARSEST = 2**-6, 2**-3  # steps to which offsets are rounded, in tokens
_LARGEST = 2**15 - 1


@dataclass
class _Offsets:
    """Offsets of one block, rounded to multiples of ``step`` and compressed.

    The page reads int16 ``[2 * G, H, W]``: differences to the row above, folded to whole numbers
    (0, -1, 1, -2, ... become 0, 1, 2, 3, ...), all low bytes before all high ones, by zlib.
    """

    values: np.ndarray  # [2 * G, H, W], in tokens
    step: float
    packed: bytes = b''

    def __post_init__(self) -> None:
        scaled = np.nan_to_num(self.values / self.step, nan=-_LARGEST)  # drawn as outside
        rounded = np.rint(scaled.clip(-_LARGEST, _LARGEST)).astype(np.int16)
        steps = np.diff(rounded, axis=1, prepend=np.int16(0))  # may wrap around, as in the page
        folded = ((steps << 1) ^ (steps >> 15)).view(np.uint16)
        planes = np.stack([folded & 255, folded >> 8]).astype(np.uint8)
        self.packed = zlib.compress(planes.tobytes(), 7)


def payload(looks: list[Look], title: str, image: str, limit: int = LIMIT) -> dict[str, Any]:
    """What the page shows, as JSON's types.

    Offsets are rounded to 1/64 of a token, and where they need more than ``limit`` bytes more
    coarsely, the largest maps first, to at most 1/8.

    Args:
        looks: one checkpoint, or two of one model with the same image.
        title: of the model.
        image: its file name.
        limit: bytes of the page.

    Raises:
        LookError: it takes more than ``limit`` bytes even so.
    """
    height, width = looks[0].pixels.shape[:2]
    content: dict[str, Any] = dict(
        title=title,
        image=dict(name=image, width=width, height=height, source=_encode_image(looks[0].pixels)),
        models=[_describe(look) for look in looks],
    )
    entries = [e for model in content['models'] for e in model['offsets']]
    packed = [
        _Offsets(b.offset.float().cpu().numpy().transpose(2, 0, 1), FINEST)
        for look in looks
        for b in look.captured.blocks
        if b.generates
    ]
    room = limit - len(render(content))
    while (total := sum(-(-len(p.packed) // 3) * 4 + 8 for p in packed)) > room:
        finer = [i for i, p in enumerate(packed) if p.step < COARSEST]
        if not finer:
            raise LookError(
                f'the page would take {(limit - room + total) / 1e6:.2g} MB, more than '
                f'{limit / 1e6:g} MB, for an image of {width}x{height} pixels: pass --max-size '
                f'with less than {max(width, height)}'
            )
        largest = max(finer, key=lambda i: len(packed[i].packed))
        packed[largest] = _Offsets(packed[largest].values, packed[largest].step * 2)
    for entry, offsets in zip(entries, packed, strict=True):
        entry.update(step=offsets.step, data=_text(offsets.packed))
    content['rounding'] = rounding(content)
    return content


def render(content: dict[str, Any]) -> str:
    """The HTML page of a :func:`payload`."""
    folder = resources.files(__package__) / 'page'
    page, style, script = (
        (folder / f'page.{kind}').read_text('utf-8') for kind in ('html', 'css', 'js')
    )
    data = json.dumps(content, separators=(',', ':')).replace('<', '\\u003c')
    # The data comes last: it may contain the marks of the other parts.
    page = page.replace('/*STYLE*/', style).replace('/*SCRIPT*/', script)
    return page.replace('/*DATA*/', data)


def rounding(content: dict[str, Any]) -> str:
    """One sentence on how far the positions in the page are from those in the model."""
    stages: dict[int, float] = {}
    for model in content['models']:
        for entry in model['offsets']:
            stages[entry['stage']] = max(stages.get(entry['stage'], 0), entry['step'])
    parts = [f'1/{1 / step:.0f} in stage {stage + 1}' for stage, step in stages.items()]
    worst = max(step / 2 * 4 * 2**stage for stage, step in stages.items())
    return (
        f'positions are rounded to {", ".join(parts)} of a token, which moves no point by more '
        f'than {worst:.2g} pixels of the image'
    )


def _describe(look: Look) -> dict[str, Any]:
    blocks, offsets = [], []
    for block in look.captured.blocks:
        height, width, channels = block.offset.shape
        if block.generates:
            offsets.append(
                dict(
                    stage=block.stage,
                    block=block.index,
                    height=height,
                    width=width,
                    groups=channels // 2,
                )
            )
        gate = block.gate.float().cpu().numpy()  # [C, 3]
        packed = np.rint(gate.T * 65535).astype('<u2').tobytes()
        blocks.append(
            dict(
                stage=block.stage,
                index=block.index,
                offsets=len(offsets) - 1,
                channels=len(gate),
                gate=_text(packed),
            )
        )
    return dict(
        name=look.name,
        offsets=offsets,
        blocks=blocks,
        found=_prediction(look.prediction),
        cams=[dict(name=k, **_map(v)) for k, v in look.cams.items()],
    )


def _prediction(found: Prediction) -> dict[str, Any]:
    result: dict[str, Any] = dict(kind=found.kind, items=found.items)
    if found.labels is None:
        shown = {item['label'] for item in found.items}
    else:
        height, width = found.labels.shape
        result |= dict(height=height, width=width)
        result['data'] = _text(zlib.compress(found.labels.astype('<u2').tobytes(), 9))
        shown = {*np.unique(found.labels).tolist()}
    known = {i: name for i, name in enumerate(found.names) if i in shown}
    result['names'] = {i: name for i, name in known.items()}
    result['palette'] = {i: [int(v) for v in found.palette[i]] for i in known}
    return result


def _map(values: np.ndarray) -> dict[str, Any]:
    """A map from 0 to 1, at most 256 on a side, as bytes."""
    height, width = values.shape
    scale = min(1, 256 / max(height, width))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    image = Image.fromarray((values.clip(0, 1) * 255).astype(np.uint8)).resize(size)
    packed = zlib.compress(image.tobytes(), 9)
    return dict(width=size[0], height=size[1], data=_text(packed))


def _encode_image(pixels: np.ndarray) -> str:
    """A data URL of the image as JPEG."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, 'JPEG', quality=92)
    return f'data:image/jpeg;base64,{_text(file.getvalue())}'


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
