"""Damage to image files that decoders overlook."""

from pathlib import Path

from .problems import DataError

_JPEG_START, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'


def check_file(path: str | Path) -> None:
    """Check that an image file is complete.

    Raises:
        DataError: the file is empty, or a truncated JPEG file.
        OSError: the file cannot be read.
    """
    content = Path(path).read_bytes()
    if not content:
        raise DataError(f'{path} is empty')
    if is_truncated(content):
        raise DataError(f'{path} is truncated: its JPEG data has no end')


def is_truncated(content: bytes) -> bool:
    """Whether a JPEG file lacks its end marker; False for any other file.

    Some decoders fill in what is missing, and all of them accept the zeros that an interrupted
    download leaves.
    """
    if not content.startswith(_JPEG_START):
        return False
    # Thumbnails have an end marker too, so skip all segments before the first scan. Scans cannot
    # contain one.
    at = len(_JPEG_START)
    while content[at : at + 1] == b'\xff' and content[at : at + 2] != _JPEG_SCAN:
        at += 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
    return _JPEG_END not in content[at:]


def check_size(found: tuple[int, int], expected: tuple[int | None, int | None]) -> None:
    """Compare the height and width of an image, in pixels, with those of its annotations.

    Raises:
        DataError: they differ.
    """
    if None in expected or tuple(found) == tuple(expected):
        return
    turned = ' (is it rotated by an EXIF tag?)' if found == expected[::-1] else ''
    raise DataError(
        f'the image has {found[0]} x {found[1]} pixels, but its annotations are for '
        f'{expected[0]} x {expected[1]}{turned}'
    )
