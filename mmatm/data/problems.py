"""How problems with data are described."""

from collections.abc import Iterable
from dataclasses import dataclass

_MOST = 20  # problems of one kind that are listed


class DataError(ValueError):
    """Data cannot be used. The message names its files and the reason."""


@dataclass(frozen=True)
class Problem:
    """A problem with data.

    Attributes:
        severity: ``missing``, ``incomplete`` and ``broken`` data cannot be used; a ``note``
            describes something that mmdet handles itself.
        message: a sentence that names the file and the value.
        number: of problems that it stands for.
    """

    severity: str
    message: str
    number: int = 1

    def __str__(self) -> str:
        return f'{self.severity}: {self.message}'

    @property
    def is_fatal(self) -> bool:
        """Whether the data cannot be used."""
        return self.severity != 'note'


def limited(problems: Iterable[Problem]) -> list[Problem]:
    """The first problems of a kind, and the number of the others."""
    problems = list(problems)
    rest = problems[_MOST:]
    if rest:
        number = sum(problem.number for problem in rest)
        what = f'... and {number} more like the last'
        problems[_MOST:] = [Problem(rest[0].severity, what, number)]
    return problems
