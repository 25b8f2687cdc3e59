"""Information on compilers, which ``mmcv.utils.collect_env`` prints."""


def get_compiler_version() -> str:
    """The compiler of the operators; there is none."""
    return 'none (operators supplied by mmatm)'


def get_compiling_cuda_version() -> str:
    """The CUDA version of the operators, as reported by an mmcv built without CUDA."""
    return 'not available'
