"""Tables of classes beside label maps: names, with colors or labels, in many spellings."""

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..problems import DataError
from .found import Tree, split_of

Color = tuple[int, int, int]
_HINT = re.compile(r'class|label|code|name|categor|color|colour|legend|palette', re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A class: its name, and its color or the label in the maps, if the table has them."""

    name: str
    color: Color | None = None
    label: int | None = None


def find_table(tree: Tree) -> Path | None:
    """Return the only text file whose lines are classes.

    Raises:
        DataError: there are several, or a class or a color is in one twice.
    """
    found = []
    for path in tree.having('.csv', '.txt', '.names'):
        if split_of(path.stem, whole=True) or not _HINT.search(path.stem):
            continue
        try:
            rows = _rows(path)
        except DataError:
            continue
        if rows[0].color:  # other lines may be something else than classes
            _check_unique(path, rows)
        elif _repeated(rows):
            continue
        if not any('/' in row.name for row in rows):
            found.append((path, rows))
    if len({tuple(rows) for _, rows in found}) > 1:  # one that has colors says more
        colored = [entry for entry in found if entry[1][0].color]
        found = colored if len(colored) == 1 else found
    if len({tuple(rows) for _, rows in found}) > 1:
        names = ' and '.join(str(path) for path, _ in found[:2])
        raise DataError(f'{names} both name classes: say which by --classes FILE')
    return found[0][0] if found else None


def read_table(path: Path) -> list[Row]:
    """Read the classes of a file.

    A line has a name alone, or with a label, or with the three numbers of a color before or after
    it, separated by commas, colons, semicolons or white space. A header and lines that begin with
    # are skipped.

    Raises:
        DataError: a line is none of these, a class, color or label is there twice, or the file
            cannot be read.
    """
    rows = _rows(path)
    _check_unique(path, rows)
    return rows


def _rows(path: Path) -> list[Row]:
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path} is not a table of classes ({error})') from None
    lines = [line.strip() for line in lines if line.strip() and not line.startswith('#')]
    if lines and path.suffix.lower() == '.csv':
        fields = [field.strip().lower() for field in next(csv.reader(lines[:1]))]
        if not any(field.isdigit() for field in fields) and len(fields) > 1:
            lines = lines[1:]
    rows = [_row(line) for line in lines]
    for line, row in zip(lines, rows, strict=True):
        if max(row.color or (row.label or 0,)) > 255:
            raise DataError(f'{path}: 255 is the most in {line!r}')
    kinds = {(row.color is None, row.label is None) for row in rows}
    if not rows or len(kinds) > 1 or len(rows) > 256:
        raise DataError(f'{path} is not a table of classes: a name per line, with color or label')
    return rows


def _check_unique(path: Path, rows: list[Row]) -> None:
    if repeated := _repeated(rows):
        raise DataError(f'{path} has the {repeated} times')


def _repeated(rows: list[Row]) -> str:
    """What is there more than once, and how often; empty if nothing is."""
    for what, values in (
        ('class', [row.name for row in rows]),
        ('color', [row.color for row in rows if row.color]),
        ('label', [row.label for row in rows if row.label not in (None, 255)]),  # 255 is ignored
    ):
        value, number = Counter(values).most_common(1)[0] if values else ('', 1)
        if number > 1:
            return f'{what} {value!r} {number}'
    return ''


def _row(line: str) -> Row:
    for gap in (r'\s*[,;:\t]\s*', r'[\s,;:]+'):  # names may have spaces
        color = rf'(\d+){gap}(\d+){gap}(\d+)'
        if match := re.fullmatch(rf'{color}{gap}(.+)', line):
            return Row(match[4].strip(), _color(match.groups()[:3]))
        if match := re.fullmatch(rf'(.+?){gap}{color}(?:[\s,;:].*)?[,;:]*', line):
            return Row(match[1].strip(), _color(match.groups()[1:4]))
    if match := re.fullmatch(r'(\d+)[\s,;:]+(.*\D.*)', line):
        return Row(match[2].strip(), label=int(match[1]))
    if match := re.fullmatch(r'(.*\D.*?)\s*[,;:\t]\s*(\d+)', line):
        return Row(match[1].strip(), label=int(match[2]))
    return Row(line)


def _color(numbers: tuple[str, ...]) -> Color:
    red, green, blue = map(int, numbers)
    return red, green, blue
