"""Which operators mmcv uses, and how to make it use those of :mod:`mmatm.mmcv_ext`."""

from importlib.util import find_spec
from pathlib import Path

_LINE = 'from mmatm.mmcv_ext import __getattr__  # written by "mmatm operators install"\n'


def status() -> str:
    """Describe in one sentence which operators mmcv uses."""
    folder = mmcv_folder()
    if folder is None:
        return 'mmcv is not installed'
    if compiled := compiled_operators(folder):
        return f'mmcv uses its compiled operators, {compiled}'
    if _is_ours(folder / '_ext.py'):
        return f'mmcv uses the operators of mmatm in every program, by {folder / "_ext.py"}'
    return 'mmcv has no compiled operators; it uses those of mmatm in programs that import mmatm'


def install() -> str:
    """Write a file that makes mmcv use the operators of mmatm in every program.

    Compiled operators stay in use. A file that mmatm did not write is never replaced.

    Returns:
        The new result of :func:`status`.

    Raises:
        FileNotFoundError: mmcv is not installed.
        FileExistsError: a file of that name exists that mmatm did not write.
    """
    folder = mmcv_folder()
    if folder is None:
        raise FileNotFoundError('mmcv is not installed: run "pip install onedl-mmcv"')
    if compiled_operators(folder):
        return status() + '; nothing to do'
    file = folder / '_ext.py'
    if file.exists() and not _is_ours(file):
        raise FileExistsError(f'{file} was not written by mmatm; nothing was changed')
    file.write_text(_LINE)
    return status()


def remove() -> str:
    """Delete the file that :func:`install` wrote, and nothing else."""
    folder = mmcv_folder()
    file = folder / '_ext.py' if folder else Path()
    if not _is_ours(file):
        return 'there is nothing to remove; ' + status()
    file.unlink()
    return status()


def mmcv_folder() -> Path | None:
    """Return the folder of mmcv without importing it; None if it is not installed."""
    spec = find_spec('mmcv')
    folders = spec.submodule_search_locations if spec else None
    return Path(next(iter(folders))) if folders else None


def compiled_operators(folder: Path) -> Path | None:
    """Return the compiled module of mmcv, or None."""
    files = [*folder.glob('_ext.*.so'), *folder.glob('_ext.so'), *folder.glob('_ext.*pyd')]
    return files[0] if files else None


def _is_ours(file: Path) -> bool:
    return file.is_file() and file.read_text() == _LINE
