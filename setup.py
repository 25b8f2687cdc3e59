"""Packaging of mmatm; ``make setup`` installs everything around it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def version() -> str:
    text = (ROOT / 'mmatm' / 'version.py').read_text()
    return re.search(r"__version__ = '(.+)'", text)[1]


def requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


class BuildKernels(build_ext):
    """Compiles the CPU operator, for any CPU of this architecture, with nothing but a C++ compiler.

    Left out, with one warning, where that fails; the operator in plain PyTorch then serves.
    """

    def get_ext_filename(self, fullname: str) -> str:
        return f'{fullname.replace(".", "/")}.so'  # no module of Python, so not named for one

    def build_extension(self, extension: Extension) -> None:
        library = Path(self.get_ext_fullpath(extension.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        library.unlink(missing_ok=True)  # of an earlier build
        found = filter(shutil.which, ('c++', 'g++', 'clang++'))
        compiler = shlex.split(os.environ.get('CXX', '')) or [next(found, 'c++')]
        command = [*compiler, *extension.extra_compile_args, *extension.sources, '-o', library]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.extensions = []
            reason = 'failed' if isinstance(error, subprocess.CalledProcessError) else 'is missing'
            print(
                'warning: mmatm is built without its fast CPU operator, as the compiler '
                f'{compiler[0]} {reason}; install a C++ compiler such as g++, then mmatm again '
                'with "pip install --force-reinstall --no-deps --no-cache-dir mmatm"',
                file=sys.stderr,
            )


class BuildWithConfigs(build_py):
    """Puts what is next to the package into ``mmatm/.mim``, where mm's tools look for it."""

    def run(self) -> None:
        super().run()
        target = ROOT if self.editable_mode else Path(self.build_lib)
        target = target / 'mmatm' / '.mim'
        target.mkdir(parents=True, exist_ok=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            source, copy = ROOT / name, target / name
            if copy.is_symlink():
                copy.unlink()
            if self.editable_mode:
                copy.symlink_to(Path('..', '..', name))
            elif source.is_dir():
                shutil.copytree(
                    source, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns('__pycache__')
                )
            else:
                shutil.copyfile(source, copy)


class Wheel(bdist_wheel):
    """Names the wheel for any Python 3; and for any system, if the operator is left out."""

    def get_tag(self) -> tuple[str, str, str]:
        library = self.get_finalized_command('build_ext').get_outputs()
        self.root_is_pure = not any(Path(file).is_file() for file in library)
        return 'py3', 'none', super().get_tag()[2]


def extension() -> dict:
    """Arguments of ``setup`` that build the CPU operator; MMATM_BUILD_OPS=0 leaves it out."""
    operator = Extension(
        'mmatm.ops._kernels',
        ['mmatm/ops/csrc/active_sample.cpp'],
        depends=['mmatm/ops/csrc/kernels.h'],
        extra_compile_args=[
            *('-std=c++17', '-O3', '-fPIC', '-shared', '-s', '-fvisibility=hidden'),
            # So it needs the C library alone, and no certain release of the C++ one.
            *('-fno-exceptions', '-fno-rtti'),
            *(['-Wl,--as-needed'] if sys.platform == 'linux' else []),
        ],
    )
    return dict(
        ext_modules=[] if os.environ.get('MMATM_BUILD_OPS') == '0' else [operator],
        cmdclass=dict(build_ext=BuildKernels, build_py=BuildWithConfigs, bdist_wheel=Wheel),
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
    package_data={'mmatm.look': ['page/*'], 'mmatm.report': ['page/*']},
    # mmengine, mmcv, mmdet and mmseg come from OpenMMLab or from OneDL under the same import
    # names, so none is required here: a second one would overwrite what the user has.
    install_requires=requirements('runtime'),
    extras_require={
        name: requirements(name)
        for name in (
            'onedl',
            'openmmlab',
            'cam',
            'classification',
            'demo',
            'evaluation',
            'export',
            'tests',
        )
    },
    entry_points=dict(console_scripts=['mmatm = mmatm.cli:main']),
    **extension(),
)
