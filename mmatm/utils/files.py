"""Files that survive a kill: written all or not at all, with a checksum beside them."""

import errno
import hashlib
import os
import zipfile
from pathlib import Path

PART = '.part'  # suffix of a file that is being written
CHECKSUM = '.sha256'  # suffix of the file beside it, in the format of the command sha256sum


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Replace ``path`` by ``content`` such that a kill or crash leaves the old or the new file.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the old file is untouched and
            nothing half-written stays.
    """
    path = Path(path)
    part = path.with_name(path.name + PART)
    try:
        with open(part, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make a renaming in ``folder`` durable, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_with_checksum(path: str | os.PathLike, content: bytes) -> None:
    """:func:`write_atomically`, and the checksum into ``path`` + :data:`CHECKSUM` after it."""
    path = Path(path)
    checksum = checksum_path(path)
    checksum.unlink(missing_ok=True)  # first: it would not fit the new content
    write_atomically(path, content)
    line = f'{hashlib.sha256(content).hexdigest()}  {path.name}\n'
    write_atomically(checksum, line.encode())


def checksum_path(path: str | os.PathLike) -> Path:
    """Where the checksum of ``path`` is, if it has one."""
    return Path(f'{os.fspath(path)}{CHECKSUM}')


def damage(path: str | os.PathLike) -> str | None:
    """What shows that ``path`` is not what was written, or None.

    Looked at is the checksum beside the file; without one, those inside a zip archive, the format
    of :func:`torch.save`. (:func:`torch.load` looks at neither.)
    """
    checksum = checksum_path(path)
    if checksum.is_file():
        expected = checksum.read_bytes().split(b' ')[0].decode(errors='replace')
        with open(path, 'rb') as file:
            found = hashlib.sha256()
            while block := file.read(1 << 20):
                found.update(block)
        if found.hexdigest() != expected:
            size = os.path.getsize(path)
            return f'its {size} bytes do not have the checksum that {checksum.name} holds'
        return None
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile raises nearly all there are for bytes that do not fit
        return f'its archive is broken: {error}'
    if broken is not None:
        return f'its record {broken} does not have the checksum that the archive holds'
    return None
