#!/usr/bin/env python
"""Write the augmented training pictures of a config with their annotations drawn in:
python tools/analysis/browse_dataset.py CONFIG --output-dir FOLDER --not-show

The installed mmdet or mmseg comes with the script; this finds and runs it.
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config


def main() -> None:
    configs = [argument for argument in sys.argv[1:] if argument.endswith('.py')]
    if configs and not Path(configs[0]).is_file():
        sys.exit(f'config {configs[0]} does not exist')
    package = Config.fromfile(configs[0]).default_scope if configs else 'mmdet'
    spec = find_spec(package)
    if spec is None:
        sys.exit(f'{package} is not installed: run "make setup"')
    folder = Path(spec.submodule_search_locations[0], '.mim', 'tools')
    scripts = sorted(folder.glob('*/browse_dataset.py'))
    if not scripts:
        sys.exit(f'this installation of {package} comes without its browse_dataset.py')
    if package == 'mmseg':
        draw_on_contiguous_pictures()
    runpy.run_path(str(scripts[0]), run_name='__main__')


def draw_on_contiguous_pictures() -> None:
    """The script of mmseg 1.2 turns the axes of a picture in place, and OpenCV refuses it then."""
    from mmseg.visualization import SegLocalVisualizer

    original = SegLocalVisualizer.add_datasample

    def add_datasample(self: SegLocalVisualizer, name: str, image: np.ndarray, **other: Any) -> Any:
        return original(self, name, np.ascontiguousarray(image), **other)

    SegLocalVisualizer.add_datasample = add_datasample


if __name__ == '__main__':
    main()
