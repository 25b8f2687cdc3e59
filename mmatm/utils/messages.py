"""Messages to the user."""

import logging
import sys
from collections.abc import Iterable

_MOST = 8


def shorten(names: Iterable[str]) -> str:
    """Join the first eight of ``names`` with commas, and count the others."""
    names = list(names)
    more = f' and {len(names) - _MOST} more' if len(names) > _MOST else ''
    return ', '.join(names[:_MOST]) + more


def log(message: str) -> None:
    """Log to mmengine's current logger, or to ``mmatm``'s if mmengine is not in use."""
    mm = sys.modules.get('mmengine.logging')
    if mm is None:
        logging.getLogger('mmatm').info(message)
    else:
        mm.print_log(message, logger='current')
