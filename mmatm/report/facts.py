"""What was trained on what, with what, as names and values for the page."""

import os
import platform
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ..utils.environment import _MM_PACKAGES
from ..version import __version__
from .evaluation import Evaluation
from .history import History

Facts = list[tuple[str, str]]
_PARTS = {
    'backbone': 'Backbone', 'neck': 'Neck', 'rpn_head': 'RPN head', 'roi_head': 'RoI head',
    'bbox_head': 'Box head', 'mask_head': 'Mask head', 'decode_head': 'Decode head',
    'auxiliary_head': 'Auxiliary head', 'panoptic_head': 'Head', 'encoder': 'Encoder',
    'decoder': 'Decoder', 'head': 'Head',
}  # fmt: skip


def model_facts(cfg: Config, evaluation: Evaluation) -> Facts:
    """Types of the model's parts, and numbers of parameters."""
    model = cfg.model
    facts = [('Model', str(model.type))]
    for name in _PARTS:
        for settings in _listed(model.get(name)):
            inner = [settings.get(part) for part in ('bbox_head', 'mask_head')]
            types = [_type_of(s) for s in (settings, *inner) if isinstance(s, dict)]
            facts.append((_PARTS[name], ', '.join(filter(None, types))))
    total = sum(evaluation.parameters.values())
    parts = ', '.join(f'{name} {_millions(n)}' for name, n in evaluation.parameters.items())
    return [*facts, ('Parameters', f'{_millions(total)} ({parts})')]


def _listed(settings: Any) -> list[dict]:
    found = settings if isinstance(settings, (list, tuple)) else [settings]
    return [s for s in found if isinstance(s, dict)]


def _type_of(settings: dict) -> str:
    arch = settings.get('arch') or (f'depth {settings["depth"]}' if 'depth' in settings else '')
    name = str(settings.get('type', ''))
    return f'{name} ({arch})' if isinstance(arch, str) and arch else name


def _millions(count: int) -> str:
    return f'{count / 1e6:.1f} M' if count >= 1e5 else f'{count / 1e3:.1f} k'


def data_facts(cfg: Config, evaluation: Evaluation) -> Facts:
    """Numbers of images and objects in the training and the test set."""
    content = evaluation.content
    objects = sum(content['kinds'][0]['positives'])
    shown = f'{evaluation.num_images:,} images'
    if content['unit'] == 'objects':
        shown += f', {objects:,} objects'
    return [
        ('Training set', _training_set(cfg)),
        ('Test set', f'{shown} ({_location(cfg.test_dataloader.dataset)})'),
        ('Classes', f'{len(content["classes"]):,}'),
    ]


def _training_set(cfg: Config) -> str:
    settings = (cfg.get('train_dataloader') or {}).get('dataset')
    if not settings:
        return 'not in the config'
    init_default_scope(cfg.default_scope)
    try:
        images = objects = 0
        for dataset in _innermost(DATASETS.build(settings)):
            images += len(dataset)
            if cfg.default_scope == 'mmdet':
                infos = map(dataset.get_data_info, range(len(dataset)))
                objects += sum(len(info['instances']) for info in infos)
    except Exception as error:  # whatever a dataset raises whose files have moved
        reason, _, _ = str(error).partition('\n')
        return f'cannot be read again ({type(error).__name__}{": " if reason else ""}{reason})'
    counted = f'{images:,} images' + (f', {objects:,} objects' if objects else '')
    return f'{counted} ({_location(settings)})'


def _innermost(dataset: Any) -> Iterator[Any]:
    """The datasets inside wrappers such as ``RepeatDataset``."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
        return
    for wrapped in inner:
        yield from _innermost(wrapped)


def _location(settings: Any) -> str:
    while isinstance(settings, dict) and ('dataset' in settings or 'datasets' in settings):
        inner = settings.get('dataset') or settings['datasets'][0]
        settings = inner[0] if isinstance(inner, (list, tuple)) else inner
    return (
        os.path.join(settings.get('data_root') or '', settings.get('ann_file') or '') or 'no path'
    )


def training_facts(
    cfg: Config, history: History, evaluation: Evaluation, checkpoint: str, seconds: float
) -> Facts:
    """How the checkpoint came to be."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    schedule = cfg.get('train_cfg') or {}
    meta = evaluation.meta
    done = [f'epoch {meta["epoch"]:,}'] if history.by_epoch and meta.get('epoch') else []
    done += [f'iteration {meta["iter"]:,}'] if meta.get('iter') else []
    facts = [
        ('Checkpoint', f'{checkpoint} ({", ".join(done)})' if done else checkpoint),
        ('Started from', _start(_first(history) or cfg)),
        (
            'Optimizer',
            f'{optimizer.get("type", "unknown")}, learning rate {optimizer.get("lr", "unknown")}, '
            f'weight decay {optimizer.get("weight_decay", 0)}',
        ),
        ('Batch size', str((cfg.get('train_dataloader') or {}).get('batch_size', 'unknown'))),
        (
            'Schedule',
            f'{schedule["max_epochs"]:,} epochs'
            if schedule.get('max_epochs')
            else f'{schedule.get("max_iters", 0):,} iterations',
        ),
    ]
    if meta.get('seed') is not None:
        facts.append(('Seed', str(meta['seed'])))
    if seconds:
        runs = len(history.runs)
        facts.append(
            ('Training time', duration(seconds) + (f' in {runs} runs' if runs > 1 else ''))
        )
    if meta.get('time'):
        facts.append(('Saved', _date(str(meta['time']))))
    return facts


def _date(text: str) -> str:
    try:
        return f'{datetime.strptime(text, "%Y%m%d_%H%M%S"):%Y-%m-%d %H:%M}'
    except ValueError:
        return text


def _first(history: History) -> Config | None:
    """The config of the first run, since a resumed one starts from that; None if it is lost."""
    files = [run / 'vis_data' / 'config.py' for run in history.runs[:1]]
    return Config.fromfile(files[0]) if files and files[0].is_file() else None


def _start(cfg: Config) -> str:
    backbone = (cfg.model.get('backbone') or {}).get('init_cfg') or {}
    pretrained = [str(s['checkpoint']) for s in _listed(backbone) if s.get('type') == 'Pretrained']
    if cfg.get('load_from'):
        return f'all weights from {cfg.load_from}'
    return f'backbone from {pretrained[0]}' if pretrained else 'random weights'


def environment_facts(logged: dict[str, str], evaluation: Evaluation) -> Facts:
    """Versions and hardware, of training as its log has them, and of this evaluation."""
    gpus = [text for name, text in logged.items() if name.startswith('GPU')]
    facts = []
    if logged:
        versions = [
            f'{n} {logged[n].split()[0]}' for n in ('Python', 'PyTorch', 'MMEngine') if n in logged
        ]
        facts = [('Trained on', ', '.join(gpus) or 'CPU'), ('Trained with', ', '.join(versions))]
    installed = [f'mmatm {__version__}', f'Python {platform.python_version()}']
    for names in (('torch',), *_MM_PACKAGES.values()):
        for name in names:
            try:
                installed.append(f'{name} {version(name)}')
            except PackageNotFoundError:
                continue
    where = evaluation.device
    if where == 'CPU':
        where = (
            f'{_processor()}, {len(os.sched_getaffinity(0))} cores'
            if hasattr(os, 'sched_getaffinity')
            else _processor()
        )
    return [*facts, ('Evaluated on', where), ('Evaluated with', ', '.join(installed))]


def _processor() -> str:
    file = Path('/proc/cpuinfo')
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def duration(seconds: float) -> str:
    """``1 h 5 min``, ``3 min 20 s`` or ``12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'


def speed_facts(history: History, evaluation: Evaluation) -> Facts:
    """Times and memory of training and of this evaluation."""
    facts = []
    steps = sorted((history.train.get('time') or {}).values())
    if steps:
        waiting = sorted((history.train.get('data_time') or {}).values())
        text = f'{_time(steps[len(steps) // 2])} per step'
        if waiting:
            text += f', of which {_time(waiting[len(waiting) // 2])} waiting for data'
        facts.append(('Training', text))
    if memory := history.train.get('memory'):  # mmengine logs MiB, of the GPU alone
        facts.append(('Memory in training', f'{max(memory.values()) / 1024:.1f} GiB of the GPU'))
    seconds = evaluation.seconds[1:] or evaluation.seconds  # the first one warms up
    if seconds:
        per_image = sum(evaluation.seconds) / evaluation.num_images
        rate = f'{_time(per_image)} per image, {1 / per_image:.1f} images per second'
        facts.append(('Inference', f'{rate}, {_time(sum(seconds) / len(seconds))} per batch'))
    whose = 'this process' if evaluation.device == 'CPU' else 'the GPU'
    facts.append(('Memory in evaluation', f'{evaluation.memory / 2**30:.1f} GiB of {whose}'))
    return facts


def _time(seconds: float) -> str:
    return f'{seconds:.2f} s' if seconds >= 1 else f'{1000 * seconds:.0f} ms'
