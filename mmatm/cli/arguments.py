"""Code that the tools share: arguments, configs, and checks before anything is built."""

import argparse
import difflib
import gc
import inspect
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import OPTIMIZERS, RUNNERS
from mmengine.runner import Runner
from torch import distributed

from .. import mm  # noqa: F401  registers ATMNet
from ..checkpoints import CheckpointError
from ..checkpoints.loading import EMA_PREFIX, install_reader
from ..checkpoints.reading import TRUST_FLAG, trust_checkpoints
from ..data import DataError, check_classes, check_paths, metrics
from ..models.trunk import ArgumentError
from ..packaged import find_config
from ..registry import similar_names
from ..utils.environment import find_problems
from ..utils.files import check_writable
from ..utils.memory import keep_freed_memory
from ..utils.messages import shorten

_METRICS = {  # the packages of mmdet's metrics, and how to install them beside numpy 2
    'CocoPanopticMetric': ('panopticapi', 'pip install --no-deps panopticapi-lite'),
    'LVISMetric': ('lvis', 'pip install lvis'),
}
_PACKAGES = {  # the extra of mmatm that installs a package, and what OpenMMLab calls its own
    'mmcv': ('onedl', 'mmcv'),
    'mmdet': ('onedl', 'mmdet'),
    'mmseg': ('onedl', 'mmsegmentation'),
    'mmpretrain': ('classification', 'mmpretrain'),
}
_IOU_METRICS = ('mDice', 'mFscore', 'mIoU')
_CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')
_BUILDING = 'mmengine.registry.build_functions'
_RUNNER = 'mmengine.runner.runner'  # builds data loaders
_RUNNER_ARGUMENTS = tuple(inspect.signature(Runner).parameters)
# Modules whose classes check what configs give them.
_GIVEN_VALUES = (
    'torch.optim',
    'torch.utils.data',
    'mmdet.datasets.samplers',
    'mmdet.evaluation',
    'mmpretrain.evaluation',
    'mmseg.evaluation',
)
# Modules whose assertions are sentences about the user's data or settings.
_CHECKING = (
    'mmatm.engine.durable_checkpoint',
    'mmatm.engine.finite_loss',
    'mmdet.engine.hooks.num_class_check_hook',
    'mmengine.hooks.checkpoint_hook',
    'mmengine.optim.optimizer.amp_optimizer_wrapper',
    'mmpretrain.datasets.custom',
)
# What mmengine says of a type that is in no registry.
_UNKNOWN_TYPE = re.compile(r"([^\s']+) is not in the (\S+)::(.+?) registry")
# What Python says of an argument that a class does not take.
_UNKNOWN_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument ('\w+')")


def make_parser(description: str) -> argparse.ArgumentParser:
    """Create a parser with the arguments that the tools of mmdet, mmseg and mmpretrain share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file, or the name of a packaged config')
    parser.add_argument(
        '--work-dir', help='folder for logs, checkpoints and metrics (default: work_dirs/CONFIG)'
    )
    add_config_options(parser)
    add_trust_flag(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


class _Options(DictAction):
    """mmengine's action, whose error names neither the value nor what was expected."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option} takes key=value, but one value is {value!r}')
        try:
            super().__call__(parser, namespace, values, option)
        except AssertionError as error:  # of brackets
            parser.error(f'{option}: {error}')


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, as in mm's tools."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        help='override config settings as key=value; lists as key="[a,b]" or key=a,b',
    )


def add_trust_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``, which takes effect when it is parsed."""

    class Trust(argparse.Action):
        def __call__(self, *_: Any) -> None:
            trust_checkpoints()

    parser.add_argument(
        TRUST_FLAG,
        action=Trust,
        nargs=0,
        help='unpickle any object in checkpoints, which can execute code: only for files from '
        'sources you trust',
    )


def read_config(name: str, options: dict | None = None) -> Config:
    """Read a config, given as a file or a packaged name, and merge ``options`` into it.

    Afterwards this process reads all checkpoints with :func:`mmatm.checkpoints.read_checkpoint`
    and, without a GPU, keeps the memory of freed tensors.
    Exits with one sentence if the file or a package that it needs is missing, or if it cannot be
    read.
    """
    for problem in find_problems():
        sys.exit(f'{problem}; "mmatm env" prints the environment')
    try:
        path = find_config(name)
    except FileNotFoundError as error:
        sys.exit(str(error))
    if Path(path).suffix not in _CONFIG_SUFFIXES:
        sys.exit(f'config {name} must be a {" or ".join(_CONFIG_SUFFIXES)} file')
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:  # mmengine names no file
        sys.exit(
            f'config {name}, or one that it inherits, is not valid Python: {error.msg} in line '
            f'{error.lineno}: {(error.text or "").strip()}'
        )
    except ModuleNotFoundError as error:
        # mmengine sets no name; its message begins with the package.
        _exit_without(error.name or str(error).split()[0], name)
    except Exception as error:  # of what the config computes, or of its syntax
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        where = f' in line {line}' if '__file__' not in frame.f_globals else ''
        what = ' '.join(f'{type(error).__name__}: {error}'.split())
        sys.exit(f'config {name}, or one that it inherits, cannot be read: {what}{where}')
    for package in ('mmcv', cfg.get('default_scope')):
        if package:
            check_package(package, name)
    remove_scope(cfg._cfg_dict)
    _check_options(cfg, options or {})
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError) as error:  # no item of a list, or settings in a plain value
        sys.exit(f'--cfg-options: {error.args[0]}')
    install_reader()
    keep_freed_memory()
    return cfg


def remove_scope(settings: Any) -> None:
    """Remove the scope that mmengine notes in all settings inherited from ``mmatm::``.

    No registry needs it, and functions such as ``default_collate`` do not take it.
    """
    if isinstance(settings, dict):
        if settings.get('_scope_') == 'mmatm':
            del settings['_scope_']
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for value in settings:
            remove_scope(value)


def _check_options(cfg: Config, options: dict) -> None:
    """Say in one sentence if an option sets what looks mistyped, or what the config only copies.

    A mistyped name on the top level is an error. Further down it may be meant, because classes have
    arguments that a config leaves out.
    """
    for option in options:
        if copies := _copies(cfg, option):
            print(
                f'warning: --cfg-options {option} changes nothing, because the config has copied '
                f'it already: set {shorten(copies)}',
                file=sys.stderr,
            )
        elif found := _mistyped(cfg, option):
            name, similar = found
            what = f'--cfg-options {option}: the config has no {name}; did you mean {similar}?'
            if '.' not in name:
                sys.exit(what)
            print(f'warning: {what}', file=sys.stderr)


def _mistyped(cfg: Config, option: str) -> tuple[str, str] | None:
    """A setting on the path of ``option`` that the config lacks, and one of a similar name."""
    settings: Any = {**dict.fromkeys(_RUNNER_ARGUMENTS), **cfg}
    outer = ''
    for name in option.split('.'):
        if isinstance(settings, (list, tuple)):
            settings = {str(index): value for index, value in enumerate(settings)}
        if not isinstance(settings, dict):
            return None
        if name not in settings:
            similar = difflib.get_close_matches(name, settings, 1, 0.8)
            return (outer + name, outer + similar[0]) if similar else None
        settings, outer = settings[name], f'{outer}{name}.'
    return None


def _copies(cfg: Config, name: str) -> list[str]:
    """Where a config holds copies of a variable that nothing else reads, such as ``data_root``."""
    if name not in cfg or name in _RUNNER_ARGUMENTS:
        return []

    def search(settings: Any, outer: str) -> Iterator[str]:
        for key, value in settings.items() if isinstance(settings, dict) else enumerate(settings):
            if key == name and value == cfg[name]:
                yield f'{outer}{key}'
            elif isinstance(value, (dict, list, tuple)):
                yield from search(value, f'{outer}{key}.')

    return list(search({key: value for key, value in cfg.items() if key != name}, ''))


def require(cfg: Config, *settings: str) -> None:
    """Exit with one sentence if a config lacks one of these settings."""
    if missing := [name for name in settings if cfg.get(name) is None]:
        sys.exit(f'config {cfg.filename} sets no {" and no ".join(missing)}')


def check_package(package: str, what: str) -> None:
    """Exit with one sentence if a package that ``what`` needs is not installed."""
    if find_spec(package) is None:
        _exit_without(package, what)


def load_config(args: argparse.Namespace, *settings: str) -> Config:
    """Read the config that the arguments of :func:`make_parser` name, and apply their settings.

    Exits with one sentence if the config has no model or lacks one of ``settings``.
    """
    if args.launcher == 'pytorch' and 'RANK' not in os.environ:
        sys.exit('--launcher pytorch needs torchrun, which "mmatm dist-train" and dist-test start')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    require(cfg, 'model', *settings)
    cfg.launcher = args.launcher
    if args.launcher != 'none' and not torch.cuda.is_available():
        _distribute_on_cpu(cfg)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(cfg.filename).stem))
    return cfg


def check_data(cfg: Config, *loaders: str, classes: bool = True) -> None:
    """Exit with one sentence if the data of these loaders is missing or unusable."""
    for loader in loaders:
        for metric in metrics(cfg, loader.replace('dataloader', 'evaluator')):
            _prepare(metric.type)
            if metric.type == 'IoUMetric':
                _check_iou_metrics(metric.get('iou_metrics', []), loader)
    try:
        check_paths(cfg, *loaders)
        if classes:
            check_classes(cfg, *loaders)
    except DataError as error:
        sys.exit(str(error))


def _prepare(metric: str) -> None:
    """Exit with one sentence if a metric lacks its package, and make it work with this numpy."""
    package, command = _METRICS.get(metric, ('', ''))
    if package and find_spec(package) is None:
        sys.exit(f'{metric} needs {package}, which is not installed: run "{command}"')
    if package == 'lvis' and not hasattr(numpy, 'float'):
        # lvis 0.5.3 evaluates with this name, which numpy 1.24 removed.
        numpy.float = float  # type: ignore[attr-defined]


def _check_iou_metrics(asked: str | list[str], loader: str) -> None:
    """Exit with one sentence if mmseg would reject a metric after it has evaluated everything."""
    if not {*([asked] if isinstance(asked, str) else asked)} <= set(_IOU_METRICS):
        sys.exit(
            f'the IoUMetric of {loader} has iou_metrics={asked}, but knows only '
            f'{", ".join(_IOU_METRICS)}'
        )


def check_checkpoint(name: str) -> None:
    """Exit with one sentence if a local checkpoint, or the file of ``ema:FILE``, is missing."""
    file = name.removeprefix(EMA_PREFIX)
    if '://' not in file and not Path(file).is_file():
        what = 'is a folder' if Path(file).is_dir() else 'does not exist'
        sys.exit(f'checkpoint {file} {what}')


def check_device(name: str) -> None:
    """Raise ValueError if torch has no such device."""
    try:
        torch.device(name)
    except RuntimeError:
        raise ValueError(
            f'--device must be cpu, cuda, or cuda:N for one of several GPUs, but is {name}'
        ) from None
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'--device {name} cannot be used: {str(error).splitlines()[0]}') from None


def require_writable(*folders: str | os.PathLike) -> None:
    """Exit with one sentence if one of these folders cannot be written or made."""
    try:
        for folder in folders:
            check_writable(folder)
    except OSError as error:
        sys.exit(str(error))


def make_runner(cfg: Config) -> Runner:
    """Build the runner of a config, as mm's own tools do.

    Exits with one sentence if its work directory cannot be written.
    """
    try:
        check_writable(cfg.work_dir)
    except OSError as error:
        sys.exit(f'the work directory {error}')
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


@contextmanager
def explained_errors() -> Iterator[None]:
    """Exit with one sentence where a checkpoint or a setting of the config cannot be used.

    It also decorates functions. Other errors keep their tracebacks.
    """
    try:
        yield
    except (ArgumentError, CheckpointError) as error:
        sys.exit(str(error))
    except DataError as error:  # maybe of a worker, with a traceback in its text
        text = str(error).strip()
        last = text.splitlines()[-1].removeprefix(f'{DataError.__module__}.DataError: ')
        sys.exit(last if 'Traceback' in text else text)
    except (AssertionError, FloatingPointError, KeyError, ValueError) as error:
        frame, where = _frames(error)[-1]
        function, text = frame.f_code.co_name, str(error.args[0] if error.args else '')
        if unknown := _UNKNOWN_TYPE.search(text):
            _exit_with_unknown_type(*unknown.groups())
        if where in _CHECKING:
            sys.exit(text)
        if function == '__init__' and where.startswith(_GIVEN_VALUES):
            name = type(frame.f_locals.get('self')).__name__
            sys.exit(f'the config gives {name} a value it cannot take: {text}')
        if (function, where, type(error)) == ('__init__', _RUNNER, ValueError):
            sys.exit(f'in the config, {text.partition(", but got")[0]}')
        if (function, where, type(error)) == ('resume', _RUNNER, KeyError):
            sys.exit(
                f'the checkpoint to resume from lacks {text}, so it is not one of a training run: '
                'to start from its weights, pass --cfg-options load_from=FILE'
            )
        if where.startswith('torch.optim') and 'loaded state dict' in text:
            sys.exit(f'the checkpoint to resume from does not fit the config: {text}')
        raise
    except TypeError as error:
        unknown = _UNKNOWN_ARGUMENT.search(str(error))
        frames = _frames(error)
        frame, where = frames[-1]
        # A class may pass on what it does not know, to one that does not know it either.
        passing = frame.f_code.co_name == '__init__' and any(w == _BUILDING for _, w in frames)
        if not unknown or not (where in (_BUILDING, _RUNNER) or passing):
            raise
        name, argument = unknown.groups()
        sys.exit(f'the config gives {name} the argument {argument}, which it does not take')


def _frames(error: Exception) -> list[tuple[FrameType, str]]:
    """The frames that an error passed through, and their modules; generated code has none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [(frame, frame.f_globals.get('__name__', '')) for frame in frames]


def check_schedule(cfg: Config) -> None:
    """Exit with one sentence if a length of the training is not positive."""
    for name in ('max_epochs', 'max_iters', 'val_interval'):
        value = cfg.train_cfg.get(name, 1)
        if isinstance(value, str) or (isinstance(value, int) and value < 1):
            sys.exit(f'train_cfg.{name} must be at least 1, but is {value}')


def check_optimizer(cfg: Config) -> None:
    """Exit with one sentence if a config's optimizer does not exist: mmengine says less."""
    name = cfg.optim_wrapper.get('optimizer', {}).get('type')
    if not isinstance(name, str):
        return
    # As mmengine looks it up: the package of the config may have optimizers of its own.
    with OPTIMIZERS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        if registry.get(name) is None:
            _exit_with_unknown_type(name, registry.scope, registry.name)


def _exit_with_unknown_type(name: str, scope: str, registry: str) -> NoReturn:
    similar = ', '.join(similar_names(name, registry, scope))
    sys.exit(
        f'the config has the type {name}, which is not in the registry {scope}::{registry}'
        + (f'; similar names in it: {similar}' if similar else '')
    )


def run_tool(command: str, *arguments: Any) -> int:
    """Run another tool in its own process, and return its status."""
    words = ['mmatm', command.replace('_', '-'), *map(str, arguments)]
    print('==', shlex.join(words), flush=True)
    return subprocess.call([sys.executable, '-m', *words])


def _distribute_on_cpu(cfg: Config) -> None:
    """Set up data-parallel training without a GPU, for which mmengine has no setting."""
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )


def leave_process_group() -> None:
    """Destroy the process group and its threads before the process exits.

    If a gloo thread still holds a tensor after Python has shut down, the process aborts. The
    threads end with the last object that uses the group. One of them is the model of the runner,
    so delete all references to the runner first.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()


def _exit_without(package: str, what: str) -> NoReturn:
    remedy = ''
    if package in _PACKAGES:
        extra, name = _PACKAGES[package]
        remedy = (
            f": run \"pip install 'mmatm[{extra}]'\" (next to OpenMMLab's own releases: "
            f'"pip install {name}")'
        )
    sys.exit(f'{what} needs {package}, which is not installed{remedy}')
