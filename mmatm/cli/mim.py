"""Run mim, which does not find mmatm on its own: mmatm mim train mmatm CONFIG ...

mim assumes that the first file installed by a wheel is in the package's folder. In mmatm's wheel
that file is the command mmatm.
"""

import sys
from pathlib import Path


def main() -> None:
    try:
        from mim import utils
        from mim.cli import cli
    except ImportError as error:
        sys.exit(f'mim is not installed ({error}): run "pip install onedl-mim" or "openmim"')

    original = utils.get_installed_path

    def get_installed_path(package: str) -> str:
        return str(Path(__file__).parents[1]) if package == 'mmatm' else original(package)

    # Patch modules that have imported it already, and the one that others import it from.
    for name, module in list(sys.modules.items()):
        if name.startswith('mim.') and hasattr(module, original.__name__):
            setattr(module, original.__name__, get_installed_path)
    cli(prog_name='mmatm mim')
