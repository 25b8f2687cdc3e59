"""ATMNet (Active Token Mixer, AAAI 2023) as a backbone for OpenMMLab.

``import mmatm`` registers ``ATMNet`` and what helps to train it in mmengine's root registries, so
mmdet's and mmseg's configs find them by name. It needs torch, timm, mmengine and numpy; mmdet and
mmseg are only needed by the configs that use them.
"""

import sys

from .utils.environment import explain, find_problems
from .version import __version__

__all__ = ['__version__', 'engine', 'models', 'ops']

# "python -m mmatm.env" has to work where nothing else does, so it stops here.
if not (sys.argv[:1] == ['-m'] and 'mmatm.env' in sys.orig_argv):
    for problem in find_problems():
        raise ImportError(f'{problem}; "python -m mmatm.env" prints the environment')
    try:
        from . import engine, models, ops
    except Exception as error:
        if cause := explain(error):
            raise ImportError(cause) from error
        raise
