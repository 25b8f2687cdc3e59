#!/usr/bin/env python
"""Measure speed and memory of any configs, side by side: python tools/benchmark.py CONFIG ...

python tools/benchmark.py CONFIG [CHECKPOINT] [CONFIG [CHECKPOINT] ...]
    configs of mmdet, mmseg and mmpretrain: packaged ones by name, other packages' as mmdet::FILE,
    or files. Inference, training step, peak memory, parameters, FLOPs and data loading.
python tools/benchmark.py [COMPARISON ...]
    ATMNet beside the published formulation and other backbones; all of them by default.
docs/benchmarks.md explains both.
"""

import argparse
import json
import platform
import sys
from importlib.util import find_spec
from pathlib import Path

import timm
import torch

from mmatm.cli.numbers import at_least
from mmatm.measuring.comparisons import NAMES, Suite, draw, report
from mmatm.measuring.timing import measure
from mmatm.ops import available_backends
from mmatm.utils.files import write_atomically
from mmatm.utils.memory import keep_freed_memory

PARTS = ('inference', 'train', 'data')
CHECKPOINTS = ('.pth', '.pt', '.pkl', '.ckpt', '.safetensors')


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('what', nargs='*', metavar='CONFIG', help=f'or COMPARISON: {", ".join(NAMES)}')
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    add('--device', choices=['cpu', 'cuda'], default=default)
    add('--dtype', choices=['float32', 'float16', 'bfloat16'], default='float32',
        help='dtype of autocast (default: float32, no autocast)')  # fmt: skip
    add('--batch', type=at_least(1), default=1, help='images per call (default: 1)')
    add('--rounds', '--repeats', type=at_least(1), default=7,
        help='timed rounds after a warm-up')  # fmt: skip
    add('--threads', type=at_least(1), help="threads on the CPU (default: torch's)")
    group = parser.add_argument_group('comparisons')
    group.add_argument('--compile', action='store_true', help='CUDA: also torch.compile')
    group.add_argument('--out', type=Path, help='folder for benchmark.json and benchmark.png')
    group = parser.add_argument_group('configs')
    add = group.add_argument
    add('--parts', nargs='+', choices=PARTS, default=PARTS, help='what to measure (default: all)')
    add('--shape', type=at_least(32), nargs=2, metavar=('H', 'W'),
        help='image size (default: 800 1280 for detection, 512 512 for segmentation, 224 224 for '
        'classification)')  # fmt: skip
    add('--train-batch', type=at_least(1), default=2,
        help='images per training step (default: 2)')  # fmt: skip
    add('--amp', action='store_true', help='bfloat16, or float16 on a GPU that lacks it')
    add('--json', type=Path, metavar='FILE', help='write all figures')
    add('--force', action='store_true', help='replace FILE if it exists')
    if find_spec('mmengine'):  # without it, the comparisons of backbones still run
        from mmatm.cli.arguments import add_config_options, add_trust_flag
        from mmatm.cli.pretrained import add_pretrained_option

        add_config_options(group)
        add_pretrained_option(group)
        add_trust_flag(group)
    return parser


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    comparisons = not args.what or any(word in NAMES for word in args.what)
    unknown = [word for word in args.what if comparisons and word not in NAMES]
    if unknown:
        parser.error(f'comparisons are {", ".join(NAMES)}, not {", ".join(unknown)}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        sys.exit('--device cuda: torch sees no CUDA device')
    if args.amp:
        half = args.device == 'cuda' and torch.cuda.get_device_capability() < (8, 0)
        args.dtype = 'float16' if half else 'bfloat16'
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()  # as in the other tools
    if comparisons:
        compare(args)
    else:
        measure_named(args)


def describe(args: argparse.Namespace) -> dict[str, str | int]:
    """What the figures depend on; printed as well."""
    machine = torch.cuda.get_device_name() if args.device == 'cuda' else processor()
    settings = dict(
        machine=machine, device=args.device, threads=torch.get_num_threads(), dtype=args.dtype,
        rounds=args.rounds, torch=torch.__version__, timm=timm.__version__,
        backend=available_backends(torch.device(args.device))[0],
    )  # fmt: skip
    print(
        f'{machine}, {settings["threads"]} threads, {args.dtype}, torch {torch.__version__}, '
        f'timm {timm.__version__}, medians of {args.rounds}, backend {settings["backend"]}'
    )
    return settings


def processor() -> str:
    """The name of the CPU, with its family and model where /proc tells them."""
    try:
        lines = Path('/proc/cpuinfo').read_text().split('\n\n')[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (x.partition(':') for x in lines)}
    name = facts.get('model name', platform.machine())
    return f'{name} (family {facts.get("cpu family", "?")}, model {facts.get("model", "?")})'


def compare(args: argparse.Namespace) -> None:
    """Run comparisons by name, and say whether their targets are met."""
    settings = describe(args)
    suite = Suite(args.device, getattr(torch, args.dtype), args.batch, args.compile)
    everything, lines = {}, []
    for name in args.what or NAMES:
        for comparison in getattr(suite, name)():
            results = everything[comparison.name] = measure(comparison, args.rounds, args.device)
            lines += report(comparison, results)
    if lines:
        print(f'\n{"target":52} {"ratio":28} {"target":>7}  measured')
        print('\n'.join(lines))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = dict(settings=settings, results=everything, targets=lines)
        (args.out / 'benchmark.json').write_text(json.dumps(content, indent=1))
        draw(everything, args.out / 'benchmark.png')
        print(f'\nwritten to {args.out}/benchmark.json and benchmark.png')


def measure_named(args: argparse.Namespace) -> None:
    """Measure configs, each with its checkpoint if it has one."""
    if args.json and args.json.exists() and not args.force:
        sys.exit(f'{args.json} exists; pass --force to replace it')
    if args.json and not args.json.parent.is_dir():
        sys.exit(f'{args.json.parent}, the folder for {args.json.name}, does not exist')
    if args.device == 'cpu' and args.dtype == 'float16':
        sys.exit('--dtype float16 needs a GPU; a CPU computes in bfloat16 under autocast')
    if find_spec('mmengine') is None:
        sys.exit('measuring configs needs mmengine, which is not installed')

    from mmatm.measuring.configs import Options, measure_configs, table

    options = Options(
        shape=args.shape and tuple(args.shape), batch=args.batch, train_batch=args.train_batch,
        device=args.device, dtype=getattr(torch, args.dtype), rounds=args.rounds,
        parts=tuple(dict.fromkeys(args.parts)),
    )  # fmt: skip
    try:
        subjects = make_subjects(args, options)
        settings = describe(args)
        results = measure_configs(subjects, options, lambda text: print(text, file=sys.stderr))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    print('', table(results), sep='\n')
    if args.json:
        settings.update(batch=args.batch, train_batch=args.train_batch)
        content = dict(settings=settings, configs=results)
        write_atomically(args.json, json.dumps(content, indent=1).encode())
        print(f'\nwritten to {args.json}')
    if not any(part in result for part in PARTS for result in results.values()):
        sys.exit('nothing was measured')


def make_subjects(args: argparse.Namespace, options) -> list:
    """Read the configs, and check all that can be checked before anything is measured."""
    from mmatm.checkpoints.weights import find_file
    from mmatm.cli.arguments import read_config
    from mmatm.cli.pretrained import use_pretrained
    from mmatm.measuring.configs import Subject, distinct
    from mmatm.measuring.models import start_from_random

    configs: list[str] = []
    checkpoints: list[str | None] = []
    for word in args.what:
        if not (word.endswith(CHECKPOINTS) or word.startswith('ema:') or '://' in word):
            configs.append(word)
            checkpoints.append(None)
        elif not configs or checkpoints[-1] is not None:
            raise ValueError(f'checkpoint {word} must follow the config that it belongs to')
        else:
            checkpoints[-1] = find_file(word)
    subjects = []
    for name, config, checkpoint in zip(
        distinct(configs, checkpoints), configs, checkpoints, strict=True
    ):
        cfg = read_config(config, args.cfg_options)
        if 'model' not in cfg:
            raise ValueError(f'{config} has no model')
        start_from_random(cfg.model)
        if args.pretrained is not None:
            use_pretrained(cfg, args.pretrained)
        subjects.append(Subject(name, cfg, options, checkpoint))
    return subjects


if __name__ == '__main__':
    main()
