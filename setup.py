"""Packaging of mmatm; ``make setup`` installs everything around it."""

import os
import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    text = (ROOT / 'mmatm' / 'version.py').read_text()
    return re.search(r"__version__ = '(.+)'", text)[1]


def requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def extension() -> dict:
    """Arguments of ``setup`` that compile the CPU operator, for any CPU of this architecture.

    Left out, with one warning, where torch or a compiler is missing, and silently with
    MMATM_BUILD_OPS=0; the operator in plain PyTorch then serves.
    """
    if os.environ.get('MMATM_BUILD_OPS') == '0':
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        warn_without_operator(f'torch cannot be imported in this build ({error})')
        return {}

    class OptionalBuild(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:  # whatever a compiler can fail with
                warn_without_operator(f'compiling it failed ({type(error).__name__}: {error})')
                self.extensions = []

    release = '_'.join(torch.__version__.split('.')[:2])  # as mmatm/ops/cpp.py looks for it
    operator = CppExtension(
        f'mmatm.ops._C_torch{release}',
        ['mmatm/ops/csrc/active_sample.cpp'],
        depends=['mmatm/ops/csrc/kernels.h'],
        extra_compile_args=['-O3', '-g0', '-fopenmp'],
    )
    return dict(ext_modules=[operator], cmdclass=dict(build_ext=OptionalBuild))


def warn_without_operator(reason: str) -> None:
    print(
        f'warning: the fast CPU operator of mmatm is left out: {reason}. Install torch and a C++ '
        'compiler, then run "pip install --no-build-isolation -e ." again.',
        file=sys.stderr,
    )


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
    extras_require={
        name: requirements(name)
        for name in ('onedl', 'openmmlab', 'classification', 'demo', 'tests')
    },
    **extension(),
)
