#!/usr/bin/env python
"""Write augmented training images of a config with their annotations:
python tools/analysis/browse_dataset.py CONFIG --output-dir FOLDER --not-show

Finds and runs the script of the installed mmdet, mmseg or mmpretrain.
"""

import inspect
import runpy
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from mmatm.cli.arguments import read_config
from mmatm.packaged import model_names


def main() -> None:
    # The config is the first argument that names one, else the first that is not an option. The
    # script parses the others.
    given = [i for i, argument in enumerate(sys.argv) if i and not argument.startswith('-')]
    given.sort(key=lambda i: not (Path(sys.argv[i]).is_file() or sys.argv[i] in model_names()))
    package = 'mmdet'
    if given:
        cfg = read_config(sys.argv[given[0]])
        sys.argv[given[0]], package = cfg.filename, cfg.default_scope
    spec = find_spec(package)
    if spec is None:
        sys.exit(f'{package} is not installed')
    folder = Path(spec.submodule_search_locations[0], '.mim', 'tools')
    scripts = sorted(folder.glob('*/browse_dataset.py'))
    if not scripts:
        sys.exit(f'this installation of {package} comes without its browse_dataset.py')
    if package == 'mmseg':
        draw_on_contiguous_images()
    if package == 'mmpretrain':
        serve_mmpretrain()
    runpy.run_path(str(scripts[0]), run_name='__main__')


def serve_mmpretrain() -> None:
    """Fix the script of mmpretrain 1.3, which hands the scope of inherited settings to a class.

    It also calls a function of matplotlib as it was before 3.11, without a renderer.
    """
    from matplotlib import _tight_bbox

    if 'renderer' in inspect.signature(_tight_bbox.adjust_bbox).parameters:
        _tight_bbox.adjust_bbox = partial(_tight_bbox.adjust_bbox, renderer=None)
    original = Config.fromfile

    def fromfile(*args: Any, **kwargs: Any) -> Config:
        cfg = original(*args, **kwargs)
        cfg.visualizer.pop('_scope_', None)
        return cfg

    Config.fromfile = fromfile


def draw_on_contiguous_images() -> None:
    """Fix the script of mmseg 1.2, whose transposed images OpenCV rejects."""
    from mmseg.visualization import SegLocalVisualizer

    original = SegLocalVisualizer.add_datasample

    def add_datasample(self: SegLocalVisualizer, name: str, image: np.ndarray, **other: Any) -> Any:
        return original(self, name, np.ascontiguousarray(image), **other)

    SegLocalVisualizer.add_datasample = add_datasample


if __name__ == '__main__':
    main()
