"""The configs, tools and model index that come with the package, in a wheel and in a clone."""

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).parent


def folder() -> Path:
    """The folder that holds ``configs``, ``tools`` and ``model-index.yml``.

    A wheel has them in ``mmatm/.mim``, where mm's tools look for them; a clone in its root.

    Raises:
        FileNotFoundError: this installation comes without them.
    """
    for candidate in (_PACKAGE / '.mim', _PACKAGE.parent):
        if (candidate / 'model-index.yml').is_file():
            return candidate
    raise FileNotFoundError(
        f'{_PACKAGE} comes without its configs and tools; install mmatm again, from a wheel or a '
        'complete clone'
    )


def model_names() -> dict[str, Path]:
    """The names of all packaged models, e.g. ``mask_rcnn_atmnet_t``, with their config files."""
    files = sorted(folder().glob('configs/[!_]*/*.py'))
    return {file.stem: file.resolve() for file in files}


def find_config(name: str) -> str:
    """The path of a config, given as a path or as the name of a packaged one.

    Raises:
        FileNotFoundError: there is neither; the message lists similar names.
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
