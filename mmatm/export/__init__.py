"""Models as files for other runtimes: ONNX."""


class ExportError(ValueError):
    """A model, or what it is made of, cannot be exported; the message says why."""


__all__ = ['ExportError']
