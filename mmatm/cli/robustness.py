"""Evaluation on corrupted images (COCO-C, arXiv 1907.07484), as mmdet's ``test_robustness.py``."""

import difflib
import hashlib
import json
import sys
from collections.abc import Sequence
from copy import deepcopy
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from statistics import fmean

from mmengine.config import Config
from mmengine.dist import is_main_process

from ..checkpoints.loading import EMA_PREFIX, load_whole_model
from ..data import datasets
from ..utils.files import sha256, write_atomically
from .arguments import make_runner

_NOISE = ('gaussian_noise', 'shot_noise', 'impulse_noise')
_BLUR = ('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur')
_WEATHER = ('snow', 'frost', 'fog', 'brightness')
_DIGITAL = ('contrast', 'elastic_transform', 'pixelate', 'jpeg_compression')
_HOLDOUT = ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate')
_BENCHMARK = _NOISE + _BLUR + _WEATHER + _DIGITAL
GROUPS = {
    'benchmark': _BENCHMARK, 'all': _BENCHMARK + _HOLDOUT, 'noise': _NOISE, 'blur': _BLUR,
    'weather': _WEATHER, 'digital': _DIGITAL, 'holdout': _HOLDOUT,
}  # fmt: skip
SEVERITIES = range(1, 6)
_MAIN = ('coco/bbox_mAP', 'coco/segm_mAP', 'lvis/bbox_AP', 'lvis/segm_AP', 'coco_panoptic/PQ',
         'mIoU', 'accuracy/top1')  # fmt: skip

Results = dict[str, dict[str, dict[str, float]]]  # corruption, severity, metric


def corruptions(names: Sequence[str]) -> list[str]:
    """The corruptions of the given names and groups, each once.

    Raises:
        ValueError: there is no corruption or group of a name. The message lists them.
    """
    for name in names:
        if name not in GROUPS and name not in GROUPS['all']:
            similar = difflib.get_close_matches(name, [*GROUPS, *GROUPS['all']], 1)
            raise ValueError(
                f'there is no corruption {name}'
                + (f', did you mean {similar[0]}?' if similar else '')
                + f'; there are the groups {", ".join(GROUPS)}, and {", ".join(GROUPS["all"])}'
            )
    return list(dict.fromkeys(c for name in names for c in GROUPS.get(name, (name,))))


def evaluate(cfg: Config, names: Sequence[str], severities: Sequence[int]) -> Results:
    """Evaluate a model on clean images and on each corruption at each severity.

    After each evaluation, all results are written to ``robustness.json`` in the work directory, and
    a table to ``robustness.md``. What the former holds is not evaluated again, if it is from the
    same config and checkpoint. As in mmdet's tool, each evaluation begins with the same seed.

    Args:
        cfg: config for testing, with ``load_from``.
        names: corruptions.
        severities: 1 (slight) to 5.

    Returns:
        The metrics by corruption and severity. Severity 0, clean images, is the same for all.
    """
    if find_spec('imagecorruptions') is None:
        sys.exit('--corruptions needs imagecorruptions: run "pip install imagecorruptions-imaug"')
    file = Path(cfg.work_dir, 'robustness.json')
    identity = _identity(cfg)
    found = _known(file, identity)
    seed = (cfg.get('randomness') or {}).get('seed') or 0
    runner = make_runner(cfg)
    load_whole_model(runner.model, cfg.load_from)
    for name in names:
        for severity in (0, *severities):
            done = found.setdefault(name, {})
            clean = next((f['0'] for f in found.values() if '0' in f), None)
            if severity == 0 and clean:
                done['0'] = clean
            if str(severity) in done:
                if severity:
                    print(f'{name} at severity {severity} is in {file} already', flush=True)
                continue
            print(f'evaluating {name} at severity {severity}', flush=True)
            runner.test_loop.dataloader = runner.build_dataloader(_loader(cfg, name, severity))
            runner.set_randomness(seed)
            # Some metrics of mmpretrain are no numbers.
            numbers = {k: float(v) for k, v in runner.test().items() if isinstance(v, Real)}
            done[str(severity)] = numbers
            if is_main_process():
                content = dict(identity=identity, results=found)
                write_atomically(file, json.dumps(content, indent=1).encode())
    found = {name: {str(s): found[name][str(s)] for s in (0, *severities)} for name in names}
    if is_main_process():
        text = table(found)
        print(text)
        write_atomically(file.with_suffix('.md'), f'{text}\n'.encode())
        print(f'{file}, {file.with_suffix(".md")}')
    return found


def table(results: Results) -> str:
    """Markdown tables, one per main metric, with the means that the benchmark reports.

    P is the value on clean images, mPC the mean over corruptions and severities, and rPC their
    ratio. A detector that finds nothing has no value from mmdet, which counts as 0.
    """
    metrics = {m: 0 for found in results.values() for values in found.values() for m in values}
    lines: list[str] = []
    for metric in [m for m in _MAIN if m in metrics] or list(metrics)[:1]:
        severities = list(next(iter(results.values())))[1:]
        lines += [f'| {metric} | {" | ".join(f"severity {s}" for s in severities)} | mean |']
        lines += ['|---' * (len(severities) + 2) + '|']
        means = []
        for name, by_severity in results.items():
            values = [by_severity[s].get(metric, 0.0) for s in severities]
            means.append(fmean(values))
            cells = ' | '.join(f'{value:.3f}' for value in (*values, means[-1]))
            lines += [f'| {name} | {cells} |']
        clean = next(iter(results.values()))['0'].get(metric, 0.0)
        share = f'{100 * fmean(means) / clean:.1f} %' if clean else '-'
        lines += ['', f'{metric}: P {clean:.3f}, mPC {fmean(means):.3f}, rPC {share}', '']
    return '\n'.join(lines).rstrip()


def _loader(cfg: Config, name: str, severity: int) -> dict:
    """The test data, corrupted as soon as it is loaded."""
    loader = deepcopy(cfg.test_dataloader)
    change = dict(type='Corrupt', corruption=name, severity=severity)
    for dataset in datasets(loader.dataset) if severity else ():
        load, *others = dataset.pipeline
        dataset.pipeline = [load, change, *others]
    return loader


def _identity(cfg: Config) -> dict[str, str]:
    """What results depend on: the checkpoint, and the parts of the config that matter."""
    name = cfg.load_from.removeprefix(EMA_PREFIX)
    prefix = cfg.load_from.removesuffix(name)
    if Path(name).is_file():  # which may be moved, or named from another folder
        name = sha256(name)
    parts = {key: cfg.get(key) for key in ('model', 'test_dataloader', 'test_evaluator')}
    settings = json.dumps(parts, sort_keys=True, default=str)
    return dict(
        checkpoint=prefix + name,
        config_sha256=hashlib.sha256(settings.encode()).hexdigest(),
    )


def _known(file: Path, identity: dict[str, str]) -> Results:
    """The results in ``file``; exits with one sentence if they are of another model."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_bytes())
        if content['identity'] == identity:
            return content['results']
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f'{file} cannot be read ({type(error).__name__}): move it away')
    sys.exit(
        f'{file} holds results of another checkpoint or other settings: move it away, or set '
        'another --work-dir'
    )
