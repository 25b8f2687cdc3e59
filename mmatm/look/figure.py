"""A figure for a paper: what some tokens sample, stage by stage."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from .capture import Block
from .running import Look

_HEIGHT = 1.9  # of an image, in inches


def draw(looks: Sequence[Look], tokens: Sequence[Sequence[float]] | None = None) -> Figure:
    """Draw one row per token and checkpoint, and one column per stage.

    Each panel shows the last block of its stage: dots are samples of the channel groups, one color
    per group, with an area proportional to the gate's weight. Rings are outside the map.

    Args:
        looks: the same image in one model or more.
        tokens: shares of width and height from 0 to 1, one pair per token; None takes the centers
            of the objects found with the highest scores, or else three places of the image.
    """
    spots = list(tokens or _default_tokens(looks[0]))
    stages = sorted({block.stage for block in looks[0].captured.blocks})
    height, width = looks[0].pixels.shape[:2]
    rows = [(look, spot) for spot in spots for look in looks]
    size = (_HEIGHT * width / height * len(stages) + 0.3, _HEIGHT * len(rows) + 0.25)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(size, layout=layout)
    axes = figure.subplots(len(rows), len(stages), squeeze=False)
    for line, (look, spot) in zip(axes, rows, strict=True):
        for ax, stage in zip(line, stages, strict=True):
            block = [b for b in look.captured.blocks if b.stage == stage][-1]
            _panel(ax, look.pixels, block, spot)
        if len(looks) > 1:
            line[0].set_ylabel(look.name, fontsize=8)
    for ax, stage in zip(axes[0], stages, strict=True):
        ax.set_title(f'stage {stage + 1}', fontsize=9)
    return figure


def _default_tokens(look: Look) -> list[tuple[float, float]]:
    height, width = look.pixels.shape[:2]
    if look.prediction.kind == 'instances' and look.prediction.items:
        boxes = np.array([item['box'] for item in look.prediction.items[:3]]).reshape(-1, 2, 2)
        return [tuple(c) for c in (boxes.mean(1) / (width, height)).clip(0, 1).tolist()]
    return [(0.3, 0.3), (0.5, 0.5), (0.7, 0.7)]


def _panel(ax: Axes, pixels: np.ndarray, block: Block, spot: Sequence[float]) -> None:
    height, width = pixels.shape[:2]
    rows, columns, channels = block.offset.shape
    stride = 4 * 2**block.stage
    column = min(int(spot[0] * width / stride), columns - 1)
    row = min(int(spot[1] * height / stride), rows - 1)
    along_row, along_column = (p[row, column].float().cpu().numpy() for p in block.positions())
    groups = channels // 2
    weights = block.gate.float().cpu().unflatten(0, (groups, -1)).mean(1).numpy()  # [G, 3]
    colors = mpl.colormaps['viridis'](np.linspace(0.1, 1, groups))

    ax.imshow(0.6 * pixels / 255 + 0.4, extent=(0, width, height, 0), interpolation='bicubic')
    own = (np.array([column, row]) + 0.5) * stride
    ax.axhline(own[1], color='#0072b2', linewidth=0.6, alpha=0.6)
    ax.axvline(own[0], color='#d55e00', linewidth=0.6, alpha=0.6)
    for axis, (positions, size) in enumerate(((along_row, columns), (along_column, rows))):
        inside = (positions >= 0) & (positions <= size - 1)
        length = (width, height)[axis]
        places = np.clip((positions + 0.5) * stride, 0, length)
        xy = np.broadcast_to(own[:, None], (2, groups)).copy()
        xy[axis] = places
        outlines = np.where(inside[:, None], 1.0, colors)
        ax.scatter(
            xy[0], xy[1], s=27 * weights[:, axis], c=np.where(inside[:, None], colors, 1),
            edgecolors=outlines.tolist(), linewidths=0.5, clip_on=False, zorder=3,
        )  # fmt: skip
    corner = (column * stride, row * stride)
    ax.add_patch(Rectangle(corner, stride, stride, fill=False, linewidth=1.2, zorder=4))
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    ax.spines[:].set_visible(False)
