"""Running the project's tools as a user does."""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DETECTOR = 'configs/detection/mask_rcnn_atmnet_xt_demo.py'
SEGMENTOR = 'configs/segmentation/fpn_atmnet_xt_demo.py'


# Importing these takes longer than most of what the tools are tested on, so a server imports them
# once and forks for every command. Where mmcv has no operators of its own, mmatm is among them.
# Processes without any of them: python(), and what the shell scripts start.
_SERVER = multiprocessing.get_context('forkserver')
_BARE = ['torch', 'torchvision', 'matplotlib.pyplot', 'scipy.stats', 'pycocotools.coco',
         'sklearn.gaussian_process', 'shapely.geometry', 'prettytable', 'einops']  # fmt: skip
_SERVER.set_forkserver_preload(
    [*_BARE, 'timm', 'mmengine.runner', 'mmcv.ops', 'imgaug', 'mmdet.apis', 'mmseg.apis',
     'distutils.errors', 'quick']
)  # fmt: skip
# Another, for what depends on how mmatm, timm and mm are imported.
_BARE_SERVER = forkserver.ForkServer()
_BARE_SERVER.set_forkserver_preload(_BARE)
_TIMEOUT = 280  # seconds


def environment():
    """The current environment, with this Python first, one thread per process and a free port."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return {**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1', 'PORT': str(free_port())}


def free_port():
    """A TCP port that nothing uses."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]


def start(*command, cwd=ROOT, out, err, group=False, path=None):
    """Start a Python script, or ``mmatm`` with its arguments, whose output goes to two files.

    Returns the process, which is the first of a new process group if ``group``. With ``path``, it
    has not imported mmatm, timm or mm, and imports from these folders first.
    """
    arguments = list(map(str, command)), cwd, environment(), out, err, group, path
    process = _SERVER.Process(target=_execute, args=arguments)
    with pytest.MonkeyPatch.context() as patch:
        # For a new server: Python 3.11 does not tell it where "quick" is.
        patch.setenv('PYTHONPATH', str(Path(__file__).parent), prepend=os.pathsep)
        if path is not None:
            connect = _BARE_SERVER.connect_to_new_process
            patch.setattr(forkserver, 'connect_to_new_process', connect)
        process.start()
    return process


def run(*command, cwd=ROOT, code=0, path=None):
    """Run a Python or shell script, or ``mmatm``, with its arguments; return what it printed.

    Any other exit status than ``code`` is an error. See ``start`` for ``path``. A program in place
    of a script follows ``-c``.
    """
    words = list(map(str, command))
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, 'out'), Path(folder, 'err')
        if words[0].endswith('.sh'):
            with out.open('wb') as stdout, err.open('wb') as stderr:
                status = subprocess.run(
                    ['bash', *words],
                    cwd=cwd, env=environment(), stdout=stdout, stderr=stderr, timeout=_TIMEOUT,
                ).returncode  # fmt: skip
        else:
            process = start(*words, cwd=cwd, out=out, err=err, path=path)
            process.join(_TIMEOUT)
            status = process.exitcode
            process.kill()
        printed, errors = out.read_text(), err.read_text()
    assert status == code, printed[-3000:] + errors[-3000:]
    return printed + errors


def run_pair(*command):
    """Run a Python script in two processes of one job, as a launcher would; what each printed."""
    job = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        outputs, processes = [Path(folder, rank) for rank in '01'], []
        for output in outputs:
            for name, value in dict(job, RANK=output.name, LOCAL_RANK=output.name).items():
                patch.setenv(name, value)
            processes.append(start(*command, out=output, err=output))
        for process in processes:
            process.join(_TIMEOUT)
            process.kill()
        printed = [output.read_text() for output in outputs]
    assert [process.exitcode for process in processes] == [0, 0], printed[0][-3000:]
    return printed


def python(*arguments, path=ROOT, cwd=None, code=0):
    """Run a new Python process with ``path`` as PYTHONPATH; the finished process."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, env={**environment(), 'PYTHONPATH': str(path)},
        capture_output=True, text=True, timeout=_TIMEOUT,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def _execute(words, cwd, environ, out, err, group, path):
    """Run a Python program in this process as if it had been started on its own."""
    import torch

    if group:
        os.setsid()
    for file, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    torch.set_num_threads(1)  # the server has read the variable for it already
    # As in a terminal; a shell that starts the tests in the background lets them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folders = (str(ROOT / 'tests' / 'helpers'), str(ROOT / 'tools'))  # pytest adds them
    script = words[0] not in ('mmatm', '-c')
    own = str(Path(words[0]).resolve().parent) if script else str(cwd)
    sys.path[:] = [own, *map(str, path or ()), *(p for p in sys.path if p not in folders)]
    sys.argv = words
    if script:
        runpy.run_path(words[0], run_name='__main__')
    elif words[0] == '-c':
        sys.argv = ['-c', *words[2:]]
        exec(words[1], {'__name__': '__main__'})
    else:
        runpy.run_module('mmatm', run_name='__main__', alter_sys=True)


def derive(config, addition, file):
    """Write a config file that adds some lines to one of the project's."""
    file.write_text(f'_base_ = {str(ROOT / config)!r}\n{addition}')
    return file


def scalars(work_dir):
    """Everything that the newest run in ``work_dir`` logged, one dict per entry."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in files[-1].read_text().splitlines()]


def metrics(work_dir):
    """What the newest tools/test.py in ``work_dir`` measured."""
    files = sorted(work_dir.glob('*/*.json'))
    return json.loads(files[-1].read_text())
