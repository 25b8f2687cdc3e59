"""Put everything into one HTML file."""

import json
import math
import shlex
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..version import __version__
from .evaluation import evaluate
from .facts import (
    data_facts,
    environment_facts,
    model_facts,
    speed_facts,
    training_facts,
)
from .history import Curve, History, read_history
from .images import colours
from .work_dir import read_logs

_FOLDER = Path(__file__).parent / 'page'
_TASKS = {'detection': 'Detector', 'segmentation': 'Segmentor', 'classification': 'Classifier'}
# The first of these that was measured leads the page; the rest follows in this order.
_HEADLINES = {
    'coco/bbox_mAP': 'box AP', 'coco/bbox_mAP_50': 'box AP50', 'coco/segm_mAP': 'mask AP',
    'coco/segm_mAP_50': 'mask AP50', 'pascal_voc/mAP': 'VOC AP50', 'lvis/bbox_AP': 'LVIS box AP',
    'lvis/segm_AP': 'LVIS mask AP', 'coco_panoptic/PQ': 'PQ', 'report/bbox_mAP': 'box AP',
    'report/bbox_mAP_50': 'box AP50', 'report/segm_mAP': 'mask AP',
    'report/segm_mAP_50': 'mask AP50', 'mIoU': 'mIoU', 'mAcc': 'mean accuracy',
    'aAcc': 'pixel accuracy', 'accuracy/top1': 'top-1 accuracy', 'accuracy/top5': 'top-5 accuracy',
}  # fmt: skip
_MOST_POINTS = 1000  # per curve


def build_page(
    cfg: Config, work_dir: Path, name: str, config: Path, checkpoint: str, max_images: int
) -> str:
    """Evaluate a checkpoint and return its report as HTML.

    Args:
        cfg: the config that was trained.
        work_dir: where it was trained.
        name: of the config.
        config: its file.
        checkpoint: file, or ``ema:`` and a file.
        max_images: how many test images to show.

    Raises:
        ReportError: there is nothing that a report can show.
    """
    history = read_history(work_dir)
    logged, seconds = read_logs(history.runs)
    trained = deepcopy(cfg)
    evaluation = evaluate(cfg, checkpoint, max_images)
    content = evaluation.content
    page = {
        **content,
        'title': name,
        'kicker': _TASKS[content['task']],
        'sentence': (
            f'evaluated on {evaluation.num_images:,} test images with {Path(checkpoint).name}.'
        ),
        'tested': evaluation.num_images,
        'made': f'Made by mmatm {__version__} on {datetime.now():%Y-%m-%d %H:%M}.',
        'colours': colours(evaluation.metainfo, len(content['classes'])),
        'headlines': [
            [label, evaluation.metrics[key]]
            for key, label in _HEADLINES.items()
            if evaluation.metrics.get(key, -1) >= 0
        ],
        'metrics': evaluation.metrics,
        'facts': {
            'Model': model_facts(trained, evaluation),
            'Data': data_facts(trained, evaluation),
            'Training': training_facts(trained, history, evaluation, checkpoint, seconds),
            'Environment': environment_facts(logged, evaluation),
        },
        'speed': speed_facts(history, evaluation),
        'history': _history(history),
        'commands': _commands(trained, work_dir, config, checkpoint),
    }
    return render(page)


def render(page: dict[str, Any]) -> str:
    """The HTML file for the data of a page."""
    text, style, script = ((_FOLDER / f'report.{s}').read_text() for s in ('html', 'css', 'js'))
    # Neither the end of a script nor a comment may appear in one.
    data = json.dumps(_finite(page), separators=(',', ':'), allow_nan=False).replace('<', '\\u003c')
    parts = {'/*style*/': style, '/*script*/': script, '/*data*/': data}
    for place, part in parts.items():
        text = text.replace(place, part)
    return text


def _finite(value: Any) -> Any:
    """Replace what JSON cannot hold by null."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _history(history: History) -> dict[str, Any]:
    """Curves in the panels of the page."""
    train, panels = history.train, []
    losses = {k: c for k, c in train.items() if 'loss' in k}
    rates = {k: c for k, c in train.items() if k.split('.')[-1] == 'lr'}
    rates = {k: c for k, c in rates.items() if k == 'lr' or c != rates.get('lr')}
    # mmdet writes -1 for what a data set has nothing of.
    metrics = {k: {x: y for x, y in c.items() if y != -1} for k, c in history.metrics.items()}
    metrics = {k: c for k, c in metrics.items() if c}
    norms = {k: c for k, c in train.items() if k == 'grad_norm'}
    for title, curves, x in (
        ('Loss', losses, 'iteration'),
        ('Validation', metrics, 'epoch' if history.by_epoch else 'iteration'),
        ('Learning rate', rates, 'iteration'),
        ('Gradient norm', norms, 'iteration'),
    ):
        if curves:
            panels.append(
                {
                    'title': title,
                    'x': x,
                    'curves': [{'name': k, 'points': _thinned(c)} for k, c in curves.items()],
                    'marks': history.resumed if x == 'iteration' else [],
                }
            )
    return {'panels': panels, 'problems': history.problems}


def _thinned(curve: Curve) -> list[tuple[int, float]]:
    points = sorted(curve.items())
    step = -(-len(points) // _MOST_POINTS)
    kept = points[::step]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _commands(cfg: Config, work_dir: Path, config: Path, checkpoint: str) -> list[list[str]]:
    """What to do next, and the command for it."""
    both, folder = [str(config), checkpoint], str(work_dir)
    again = str(Path('work_dirs', f'{config.stem}_again'))
    train = ['train', str(config), '--work-dir']
    commands = [
        ('Draw the whole test set', ['test', *both, '--show-dir', 'drawn']),
        ('Continue this run if it was interrupted', [*train, folder, '--resume']),
        (
            'Train on from these weights',
            # The config of a resumed run would resume.
            [*train, again, '--cfg-options', f'load_from={checkpoint}', 'resume=False'],
        ),
        ('Make this report again', ['report', folder, '--force']),
    ]
    if cfg.default_scope != 'mmpretrain':
        try_it = ['predict', 'IMAGES', *both, '--out-dir', 'found']
        commands.insert(0, ('Try it on your own images', try_it))
    if (cfg.model.get('backbone') or {}).get('type') in ('ATMNet', 'mmatm.ATMNet'):
        deploy = ['export', *both, '--out', 'model.onnx']
        commands.insert(-1, ('Deploy it without torch', deploy))
    return [[purpose, f'mmatm {shlex.join(words)}'] for purpose, words in commands]
