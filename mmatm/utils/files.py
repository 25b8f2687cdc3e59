"""Files that survive a kill: written completely or not at all, with a checksum."""

import errno
import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

PART = '.part'  # suffix of a file that is being written
CHECKSUM = '.sha256'  # suffix of the file next to it, in the format of the command sha256sum


def check_writable(folder: str | os.PathLike) -> None:
    """Check that a folder can be written, or made if it does not exist. Nothing is left in it.

    Raises:
        OSError: it cannot. The message is a sentence.
    """
    path = Path(folder).absolute()
    existing = next(p for p in (path, *path.parents) if os.path.lexists(p))
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(
            f'{folder} cannot be written: no file can be made in {existing} ({error.strerror})'
        ) from None


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Replace the content of ``path``; after a kill or crash the file is either old or new.

    Raises:
        OSError: the disk is full, or the folder is not writable. The old file is unchanged, and no
            partial file remains.
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
    """Make a renaming in ``folder`` durable, if the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_with_checksum(path: str | os.PathLike, content: bytes) -> None:
    """Call :func:`write_atomically`, then write the checksum to ``path`` + :data:`CHECKSUM`."""
    path = Path(path)
    checksum = checksum_path(path)
    checksum.unlink(missing_ok=True)  # before it is outdated
    write_atomically(path, content)
    line = f'{hashlib.sha256(content).hexdigest()}  {path.name}\n'
    write_atomically(checksum, line.encode())


def checksum_path(path: str | os.PathLike) -> Path:
    """Return the path of the checksum file of ``path``, which may not exist."""
    return Path(f'{os.fspath(path)}{CHECKSUM}')


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def damage(path: str | os.PathLike) -> str | None:
    """Return how a file differs from what was written, or None.

    This checks the checksum next to the file. Without one, it checks those inside a zip archive,
    the format of :func:`torch.save`. (:func:`torch.load` checks neither.)
    """
    checksum = checksum_path(path)
    if checksum.is_file():
        expected = checksum.read_bytes().split(b' ')[0].decode(errors='replace')
        if sha256(path) != expected:
            size = os.path.getsize(path)
            return f'its {size} bytes do not have the checksum that {checksum.name} holds'
        return None
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile raises many types for invalid bytes
        return f'its archive is broken: {error}'
    if broken is not None:
        return f'its record {broken} does not have the checksum that the archive holds'
    return None
