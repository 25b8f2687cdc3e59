"""Figures that the tools write."""

import sys
from pathlib import Path
from typing import Any


def save_figure(figure: Any, out: str) -> None:
    """Write a figure of matplotlib, 100 dots per inch; make its folder.

    Exits with one sentence if that cannot be done, or if matplotlib does not know the suffix.
    """
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=100)
    except (OSError, ValueError) as error:  # the latter lists the suffixes
        sys.exit(f'--out {out} cannot be written: {error}')
