"""Packaging of mmatm; ``make setup`` installs everything around it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    text = (ROOT / 'mmatm' / 'version.py').read_text()
    return re.search(r"__version__ = '(.+)'", text)[1]


def requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


setup(
    name='mmatm',
    version=version(),
    description='ATMNet (Active Token Mixer, AAAI 2023) for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmatm', 'mmatm.*']),
    # mmengine, mmcv, mmdet and mmseg come from OpenMMLab or from OneDL under the same import
    # names, so none is required here: a second one would overwrite what the user has.
    install_requires=requirements('runtime'),
    extras_require={name: requirements(name) for name in ('onedl', 'openmmlab', 'demo', 'tests')},
)
