"""What training and testing share: command line, config, and checks before anything is built."""

import argparse
import gc
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from torch import distributed

from annotations import check_coco_annotations, read_coco
from mmatm.models.checkpoint import TRUST_FLAG, trust_checkpoints

_PACKAGES = {'mmdet': 'mmdetection', 'mmseg': 'mmsegmentation'}  # where OneDL's differ


def make_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that the tools of mmdet, mmseg and mmpretrain have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='folder for logs, checkpoints and metrics (default: work_dirs/CONFIG)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, as key=value; a list as key="[a,b]" or key=a,b',
    )
    add_trust_flag(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def add_trust_flag(parser: argparse.ArgumentParser) -> None:
    """``--trust-checkpoint``, which works by being given."""

    class Trust(argparse.Action):
        def __call__(self, *_: Any) -> None:
            trust_checkpoints()

    parser.add_argument(
        TRUST_FLAG,
        action=Trust,
        nargs=0,
        help='unpickle any object in the checkpoints that are read, which can execute code: only '
        'for files whose source you trust',
    )


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command line merged in.

    Exits with one sentence if the file or the packages that it needs are missing.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not Path(args.config).is_file():
        sys.exit(f'config {args.config} does not exist')
    try:
        cfg = Config.fromfile(args.config)
    except ModuleNotFoundError as error:
        # mmengine gives no name, but a sentence that begins with it.
        sys.exit(_how_to_install(error.name or str(error).split()[0], args.config))
    scope = cfg.get('default_scope')
    for package in ('mmcv', scope):
        if package and find_spec(package) is None:
            sys.exit(_how_to_install(package, args.config))
    if find_spec('mmcv._ext') is None:
        sys.exit(
            'mmcv is installed without its compiled operators; remove it and run "make setup", or '
            'build it with "pip install --no-build-isolation onedl-mmcv" after torch'
        )
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.launcher != 'none' and not torch.cuda.is_available():
        _distribute_on_cpu(cfg)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return cfg


def _distribute_on_cpu(cfg: Config) -> None:
    """Data-parallel training without a GPU, for which mmengine has no setting of its own."""
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )


def leave_process_group() -> None:
    """End the connections between the processes of a job, and their threads, before they exit.

    A thread of gloo that still holds a tensor when Python has shut down aborts the process. The
    threads end with the last object that uses the group, among them the model of a runner that is
    no longer referred to.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()


def _how_to_install(package: str, config: str) -> str:
    name = _PACKAGES.get(package, package)
    return (
        f'{config} needs {package}, which is not installed: run "make setup" or '
        f'"pip install onedl-{name}" (next to OpenMMLab\'s own releases: "pip install {package}")'
    )


def check_data(cfg: Config, *loaders: str) -> None:
    """Exit with one sentence if a file or folder that a data loader reads does not exist.

    Args:
        cfg: the config.
        loaders: keys of the data loaders to check, e.g. ``train_dataloader``.
    """
    for loader in loaders:
        settings = cfg.get(loader) or {}
        for dataset in _datasets(settings.get('dataset')):
            for path in _paths(dataset):
                if not path.exists():
                    sys.exit(
                        f'the {dataset.get("type")} of {loader} is missing: {path} was looked for '
                        f'in {Path.cwd()}; docs/data.md tells how to get and place it'
                    )
        for metric in metrics(cfg, loader.replace('dataloader', 'evaluator')):
            ann_file = metric.get('ann_file')
            if ann_file and '://' not in ann_file and not Path(ann_file).exists():
                sys.exit(
                    f'the {metric.type} of {loader} lacks its annotations: {ann_file} was looked '
                    f'for in {Path.cwd()}; docs/data.md tells how to get and place them'
                )


def check_classes(cfg: Config, *loaders: str) -> None:
    """Exit if a COCO-format data set has broken annotations or lacks a class of the config.

    mmdet drops such a class in silence, and with it every picture that shows nothing else.
    Categories that only the annotations have are left out of training, which is allowed but said,
    and so are annotations that mmdet does not use.
    """
    if os.environ.get('RANK', '0') != '0':  # one process reads the file for all
        return
    for loader in loaders:
        for dataset in _datasets((cfg.get(loader) or {}).get('dataset')):
            if dataset.get('type') != 'CocoDataset' or not dataset.get('ann_file'):
                continue
            path = os.path.join(dataset.get('data_root') or '', dataset.ann_file)
            if '://' in path:
                continue
            from mmdet.datasets import CocoDataset

            try:
                content = read_coco(Path(path))
            except ValueError as error:
                sys.exit(f'{loader}: {error}')
            metainfo = {**CocoDataset.METAINFO, **(dataset.get('metainfo') or {})}
            classes = metainfo['classes']
            categories = [category['name'] for category in content['categories']]
            missing = [name for name in classes if name not in categories]
            if missing:
                sys.exit(
                    f'{loader}: {path} has no category {", ".join(map(repr, missing))}; it has '
                    f'{", ".join(map(repr, categories))}. Set metainfo=dict(classes=(...)) of the '
                    'data set to names out of these, and num_classes of the heads to their number'
                )
            pipeline = dataset.get('pipeline') or []
            problems = list(
                check_coco_annotations(
                    content,
                    Path(path),
                    masks=any(transform.get('with_mask') for transform in pipeline),
                    evaluated=loader != 'train_dataloader',
                    classes=classes,
                )
            )
            if problems:
                print(*problems, sep='\n', file=sys.stderr)
            if not all(problem.startswith('note: ') for problem in problems):
                sys.exit(f'{loader}: {path} has annotations that cannot be used, see above')
            extra = [name for name in categories if name not in classes]
            if extra:
                print(f'{loader}: the categories {", ".join(map(repr, extra))} are left out')


def metrics(cfg: Config, evaluator: str) -> list[dict]:
    """The metrics of ``val_evaluator`` or ``test_evaluator``, which may be one or a list."""
    settings = cfg.get(evaluator) or []
    return settings if isinstance(settings, list) else [settings]


def _datasets(settings: Any) -> Iterator[dict]:
    """The innermost datasets inside wrappers such as ConcatDataset or RepeatDataset."""
    for item in settings if isinstance(settings, (list, tuple)) else [settings]:
        if not isinstance(item, dict):
            continue
        inner = item.get('dataset') or item.get('datasets')
        if inner:
            yield from _datasets(inner)
        else:
            yield item


def _paths(dataset: dict) -> Iterator[Path]:
    """Annotation file and image folders of a dataset, where they are local."""
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or dataset.get('split') or {}
    names = [dataset.get('ann_file'), *(prefix.values() if isinstance(prefix, dict) else [prefix])]
    for name in names:
        if name and '://' not in os.path.join(root, name):
            yield Path(root, name)
