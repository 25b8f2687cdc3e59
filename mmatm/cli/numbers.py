"""Numbers on the command line: types for argparse."""

from argparse import ArgumentTypeError
from collections.abc import Callable


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f'must be a number from 0 to 1, but is {text}')
    return value


def at_least(least: int) -> Callable[[str], int]:
    """Whole numbers from ``least`` on."""

    def number(text: str) -> int:
        value = int(text)  # argparse explains texts that are none
        if value < least:
            raise ArgumentTypeError(f'must be at least {least}, but is {text}')
        return value

    return number
