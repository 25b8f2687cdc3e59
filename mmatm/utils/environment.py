"""Versions and builds of mmatm's dependencies, and combinations of them that cannot work.

This module works in broken environments too: it imports other packages only inside functions, and
reports their errors.
"""

import platform
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

# Import name -> the distributions that provide it: OpenMMLab's, OneDL's, and reduced builds.
_MM_PACKAGES = {
    'mmengine': ('mmengine', 'onedl-mmengine', 'mmengine-lite'),
    'mmcv': ('mmcv', 'onedl-mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
}
_OTHERS = {name: (name,) for name in ('torch', 'torchvision', 'timm', 'numpy', 'triton')}


def collect_env() -> dict[str, str]:
    """Describe the environment for a bug report, as ``name -> value``.

    The results of mmengine's own ``collect_env`` come first (GPU, compilers, build of torch),
    combinations that cannot work come last, as ``problem 1`` and so on.
    """
    env: dict[str, str] = {}
    try:
        from mmengine.utils.dl_utils import collect_env as collect_mmengine

        env.update((name, str(value)) for name, value in collect_mmengine().items())
    except Exception as error:  # whatever a broken environment fails with
        env['mmengine.utils.collect_env'] = _failure(error)
    for useless in ('numpy_random_seed', 'MUSA available', 'MMEngine'):
        env.pop(useless, None)
    from ..version import __version__

    env['platform'] = platform.platform()
    env['mmatm'] = __version__
    for name, distributions in (_OTHERS | _MM_PACKAGES).items():
        env[name] = ' and '.join(_installed(*distributions)) or 'not installed'
    env['operators of mmcv'] = _attempt(_operators_of_mmcv)
    env['backends of active_sample'] = _attempt(_backends)
    env.update((f'problem {n}', text) for n, text in enumerate(find_problems(thorough=True), 1))
    return env


def find_problems(thorough: bool = False) -> Iterator[str]:
    """Yield why this environment cannot work, as sentences that include the remedy.

    Args:
        thorough: also import torchvision, timm and OpenCV to see whether they load.
    """
    for name, distributions in _MM_PACKAGES.items():
        installed = _installed(*distributions)
        if len(installed) > 1:
            names = ' '.join(i.split()[0] for i in installed)
            yield (
                f'{name} is installed twice, by {" and ".join(installed)}, whose files overwrite '
                f'each other: run "pip uninstall -y {names}" and install the one that you want '
                'again'
            )
    if thorough:
        needed = ['torchvision', 'timm']
        if _installed(*_MM_PACKAGES['mmengine']):
            needed.append('cv2')
        for name in needed:
            try:
                import_module(name)
            except Exception as error:  # torchvision raises RuntimeError
                yield explain(error) or f'{name} cannot be imported: {_failure(error)}'
                break


def explain(error: Exception) -> str | None:
    """Return the cause and the remedy of an exception at import, if they are known."""
    if isinstance(error, ImportError) and error.name == 'cv2':
        # OneDL's mmengine imports but does not require it; opencv-python needs OpenGL.
        return (
            f'OpenCV, which mmengine needs, cannot be imported ({_failure(error)}): run '
            '"pip install opencv-python-headless"'
        )
    if 'torchvision' in str(error) and not isinstance(error, ModuleNotFoundError):
        found = ' and '.join(_installed('torch', 'torchvision'))
        return (
            f'{found} are not from one build ({_failure(error)}): install both from the same '
            'place, e.g. "pip install --force-reinstall torch torchvision"'
        )
    problem = next(find_problems(), None)
    return f'{_failure(error)}; {problem}' if problem else None


def _installed(*distributions: str) -> list[str]:
    """``NAME VERSION`` of each distribution that is installed."""
    found = []
    for name in distributions:
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            continue
    return found


def _operators_of_mmcv() -> str:
    from ..mmcv_ext import SUPPLIED
    from .operators import status

    text = status()
    return f'{text}: {", ".join(SUPPLIED)}' if 'mmatm' in text else text


def _backends() -> str:
    from ..ops import available_backends, cpp, triton

    state = (
        f'cpp {cpp.capability()}, {cpp.threading()}'
        if cpp.is_available()
        else f'cpp not built ({cpp.load_error})'
    )
    names = ', '.join(available_backends('cuda' if triton.is_available() else 'cpu'))
    return f'{names}; {state}; triton {"available" if triton.is_available() else "not available"}'


def _attempt(describe: Callable[[], str]) -> str:
    try:
        return describe()
    except Exception as error:  # whatever a broken environment fails with
        return _failure(error)


def _failure(error: Exception) -> str:
    lines = str(error).splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'
