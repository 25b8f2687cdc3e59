"""What is wrong with data."""

from collections.abc import Iterable
from dataclasses import dataclass

_MOST = 20  # problems of one kind that are listed


class DataError(ValueError):
    """Data cannot or should not be used; the message names its files and what is wrong."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: ``missing``, ``incomplete`` or ``broken`` data cannot be used; a ``note`` is about
            what mmdet handles by itself.
        message: one sentence that names the file and the value.
    """

    severity: str
    message: str

    def __str__(self) -> str:
        return f'{self.severity}: {self.message}'

    @property
    def is_fatal(self) -> bool:
        """Whether the data cannot be used."""
        return self.severity != 'note'


def limited(problems: Iterable[Problem]) -> list[Problem]:
    """The first problems of a kind, and how many more there are."""
    problems = list(problems)
    rest = problems[_MOST:]
    if rest:
        problems[_MOST:] = [Problem(rest[0].severity, f'... and {len(rest)} more like the last')]
    return problems
