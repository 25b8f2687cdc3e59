"""What mmcv tells of its compilers; ``mmcv.utils.collect_env`` prints it."""


def get_compiler_version() -> str:
    """The compiler of the operators, of which there is none."""
    return 'none (operators supplied by mmatm)'


def get_compiling_cuda_version() -> str:
    """The CUDA version of the operators, in the words of an mmcv built without CUDA."""
    return 'not available'
