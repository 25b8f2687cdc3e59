"""Models as files for other runtimes: ONNX."""

from pathlib import Path


class ExportError(ValueError):
    """A model, or what it is made of, cannot be exported; the message says why."""


def weights_file(path: Path) -> Path:
    """The file with the weights of an ONNX file, where these are external."""
    return path.with_name(f'{path.name}.data')


__all__ = ['ExportError', 'weights_file']
