"""What is said to the user, and where."""

import logging
import sys
from collections.abc import Iterable

_MOST = 8


def shorten(names: Iterable[str]) -> str:
    """The first eight of ``names``, joined by commas, and how many more there are."""
    names = list(names)
    more = f' and {len(names) - _MOST} more' if len(names) > _MOST else ''
    return ', '.join(names[:_MOST]) + more


def log(message: str) -> None:
    """Write a line to mmengine's current logger, or to ``mmatm``'s where mmengine is not in use."""
    mm = sys.modules.get('mmengine.logging')
    if mm is None:
        logging.getLogger('mmatm').info(message)
    else:
        mm.print_log(message, logger='current')
