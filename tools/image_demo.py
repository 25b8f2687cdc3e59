#!/usr/bin/env python
"""The same as tools/predict.py, under mmdet's name: python tools/image_demo.py INPUT CONFIG FILE"""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name('predict.py')), run_name='__main__')
