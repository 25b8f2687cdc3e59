"""Find the configs, tools and model index of the package, in a wheel or a clone."""

import difflib
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = Path(__file__).parent


def folder() -> Path:
    """Return the folder that contains ``configs``, ``tools`` and ``model-index.yml``.

    In a wheel that is ``mmatm/.mim``, where mm's tools look for them; in a clone, the root.

    Raises:
        FileNotFoundError: this installation does not contain them.
    """
    for candidate in (_PACKAGE / '.mim', _PACKAGE.parent):
        if (candidate / 'model-index.yml').is_file():
            return candidate
    raise FileNotFoundError(
        f'{_PACKAGE} comes without its configs and tools; install mmatm again, from a wheel or a '
        'complete clone'
    )


def model_names() -> dict[str, Path]:
    """Map the names of all packaged configs, e.g. ``mask_rcnn_atmnet_t``, to their files."""
    files = sorted(folder().glob('configs/[!_]*/*.py'))
    return {file.stem: file.resolve() for file in files}


def find_config(name: str) -> str:
    """Return the path of a config: a path, a packaged config, or ``mmdet::FOLDER/FILE.py``.

    Raises:
        FileNotFoundError: there is no such config. The message lists similar names.
    """
    if Path(name).is_file():
        return name
    if '::' in name:
        return _find_in_package(*name.split('::', 1))
    names = model_names()
    stem = name.removesuffix('.py')
    if stem in names:
        return str(names[stem])
    similar = difflib.get_close_matches(Path(stem).name, names, n=3)
    hint = f'; did you mean {" or ".join(similar)}?' if similar else ''
    raise FileNotFoundError(
        f'config {name} does not exist: it must be a file or the name of a packaged config, as '
        f'"mmatm configs" lists them{hint}'
    )


def _find_in_package(package: str, file: str) -> str:
    """The path of a config that another package contains, without importing the package."""
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f'config {package}::{file} needs {package}, which is not installed')
    root = folder() if package == _PACKAGE.name else Path(spec.origin).parent / '.mim'
    configs = root / 'configs'
    if (configs / file).is_file():
        return str(configs / file)
    names = {path.name: path for path in configs.glob('[!_]*/**/*.py')}
    similar = difflib.get_close_matches(Path(file).name, names, n=3)
    found = ' or '.join(str(names[name].relative_to(configs)) for name in similar)
    hint = f'; did you mean {found}?' if similar else ''
    raise FileNotFoundError(f'config {file} does not exist in {configs}{hint}')
