"""Find the configs, tools and model index of the package, in a wheel or a clone."""

import difflib
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
    """Return the path of a config, given as a path or as the name of a packaged config.

    Raises:
        FileNotFoundError: there is no such config. The message lists similar names.
    """
    if Path(name).is_file():
        return name
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
