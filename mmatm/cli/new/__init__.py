"""The command ``mmatm new``: from a folder of data to a config that trains on it."""

import argparse
import os
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from ...checkpoints import CheckpointError
from ...checkpoints.weights import AUTO, find_file
from ...data.formats import FORMATS, TASKS, Found, Options, read_dataset
from ...data.problems import DataError, limited
from ...data.splitting import Splits, choose_splits
from ...data.writing import image_root, is_foreign, put_in_place, write_dataset
from ...models.trunk import ARCHS
from ...utils.files import check_writable, write_atomically
from ...utils.messages import shorten
from .measuring import Measured
from .recipes import HEADS, Recipe, choose_recipe, choose_schedule
from .text import config_text

_PURPOSES = ('train', 'val', 'test')


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. Nothing is written unless the data is usable and the config trains."""
    args = _parser().parse_args(argv)
    try:
        _check_targets(args)
        found = read_dataset(args.data, args.format, _options(args))
        _report(found)
        if args.task and args.task != found.task:
            raise DataError(f'--task {args.task}: {found.format} data is for {found.task} here')
        chosen = {purpose: getattr(args, purpose) for purpose in _PURPOSES}
        splits, why = choose_splits(found.splits, chosen, args.val_share, args.seed)
        found.choices += why
        _check_content(found, splits)
        measured = Measured(found, splits)
        if args.head and args.head not in HEADS[found.task]:
            heads = ', '.join(HEADS[found.task])
            raise DataError(f'--head {args.head}: for {found.task} the heads are {heads}')
        device = args.device or _device()
        recipe = choose_recipe(measured, device, args.head, args.arch, args.pretrained)
        if not args.no_try:
            _check_package(args.data, found.task)
    except (DataError, OSError) as error:
        sys.exit(str(error))
    try:
        choices = _write(args, measured, recipe)
    except (DataError, OSError) as error:
        sys.exit(str(error))
    print(f'{args.data}: {found.format}, {found.task}\n')
    print(measured.tables())
    print()
    print(*(_line(what, why) for what, why in choices), sep='\n')
    print(f'\nWrote {args.out} and {_data_out(args)}.')
    if args.run:
        sys.exit(_run(args.out, _work_dir(args)))
    print(f'Go on with\n\n  {shlex.join(["mmatm", "train", str(args.out)])}')


def _line(what: str, why: str) -> str:
    return textwrap.fill(why, 98, initial_indent=f'  {what:18}', subsequent_indent=' ' * 20)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Write a config that trains on a folder of data')
    parser.add_argument(
        'data',
        type=Path,
        help='folder with COCO JSON, Pascal VOC, YOLO, label maps, or a folder per class; or one '
        'file, .json of COCO or .yaml of YOLO',
    )
    parser.add_argument('--out', type=Path, required=True, help='config to write')
    parser.add_argument(
        '--data-out',
        type=Path,
        help='folder for what is converted (default: beside the config, its name with _data)',
    )
    parser.add_argument('--force', action='store_true', help='replace what an earlier call wrote')
    data = parser.add_argument_group('the data, where it cannot tell')
    data.add_argument('--format', choices=list(FORMATS))
    data.add_argument('--task', choices=TASKS, help='instance: detection with masks')
    data.add_argument(
        '--classes',
        metavar='NAME,NAME|FILE',
        help='classes in order, or a file with one per line, with label or color for label maps',
    )
    data.add_argument(
        '--void', type=_void, metavar='LABEL,LABEL|none', help='labels of pixels to ignore'
    )
    data.add_argument('--labels', type=Path, metavar='FOLDER', help='where the label maps are')
    for purpose in _PURPOSES:
        data.add_argument(f'--{purpose}', metavar='SPLIT', help=f'split to use for {purpose}')
    data.add_argument(
        '--val-share',
        type=_share,
        default=0.2,
        help='of the images, if there is but one split (default: %(default)s)',
    )
    data.add_argument('--seed', type=int, default=0, help='of that split (default: %(default)s)')
    model = parser.add_argument_group('the model and its training')
    heads = [head for heads in HEADS.values() for head in heads]
    model.add_argument('--head', choices=heads)
    model.add_argument('--arch', choices=list(ARCHS))
    model.add_argument(
        '--pretrained', nargs='?', const=AUTO, type=_file, metavar='FILE',
        help='weights of the backbone; without FILE, the published ones ("mmatm weights")',
    )  # fmt: skip
    model.add_argument('--device', choices=['cpu', 'cuda'], help='(default: a GPU if there is one)')
    model.add_argument(
        '--minutes', type=_minutes, help='of training (default: 10 to 16, by task, on a CPU)'
    )
    model.add_argument(
        '--no-try', action='store_true', help='do not train a few steps to check and time them'
    )
    parser.add_argument(
        '--run',
        action='store_true',
        help='then train, write a report, and export to ONNX, into work_dirs and the name of OUT',
    )
    return parser


def _void(text: str) -> list[int]:
    try:
        labels = [int(word) for word in text.split(',') if text != 'none']
    except ValueError:
        labels = [-1]
    if not all(0 <= label <= 255 for label in labels):
        raise argparse.ArgumentTypeError(f'expected labels from 0 to 255, or none, not {text!r}')
    return labels


def _share(text: str) -> float:
    return _number(text, 1)


def _minutes(text: str) -> float:
    return _number(text, 1e5)


def _number(text: str, below: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < below:
        raise argparse.ArgumentTypeError(f'expected a number between 0 and {below:g}, not {text!r}')
    return value


def _file(text: str) -> str:
    if text == AUTO:
        return text
    try:
        name = find_file(text)
    except FileNotFoundError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    path = Path(name).expanduser()
    return str(path.absolute()) if path.is_file() else name


def _device() -> str:
    import torch

    return 'cuda' if torch.cuda.is_available() else 'cpu'


def _options(args: argparse.Namespace) -> Options:
    classes, table = None, None
    if args.classes and os.path.isfile(args.classes):  # pathlib rejects long lists of names
        table = Path(args.classes)
    elif args.classes:
        classes = [name.strip() for name in args.classes.split(',')]
        if '' in classes or len(set(classes)) < len(classes):
            raise DataError(f'--classes {args.classes}: expected different names, or a file')
    return Options(args.task, classes, table, args.void, args.labels)


def _data_out(args: argparse.Namespace) -> Path:
    return args.data_out or args.out.with_name(f'{args.out.stem}_data')


def _work_dir(args: argparse.Namespace) -> Path:
    return Path('work_dirs', args.out.stem)  # the default of mmatm train


def _check_targets(args: argparse.Namespace) -> None:
    """Reject what must not be written, before anything is read."""
    if not args.data.exists():
        raise DataError(f'{args.data} does not exist')
    if args.out.suffix != '.py':
        raise DataError(f'--out {args.out}: the name of a config ends in .py')
    folder = _data_out(args)
    source = args.data.resolve()
    for flag, path in (('--out', args.out), ('--data-out', folder)):
        if source.is_dir() and source in path.resolve().parents:
            raise DataError(f'{flag} {path} is inside {args.data}, where nothing is changed')
        if path.exists() and not args.force:
            go_on = shlex.join(['mmatm', 'train', str(args.out), '--resume'])
            hint = f', and "{go_on}" continues' if args.run and _work_dir(args).exists() else ''
            raise DataError(f'{path} exists; --force replaces it{hint}')
    if args.out.is_dir() or is_foreign(folder):
        path = args.out if args.out.is_dir() else folder
        raise DataError(f'{path} holds what mmatm new did not write; choose another')
    for path in (args.out, folder):
        check_writable(path.parent)
    if args.run and _work_dir(args).exists():
        raise DataError(
            f'{_work_dir(args)} of an earlier training exists: move or delete it, or choose '
            'another name by --out'
        )


def _report(found: Found) -> None:
    """Print the problems of the data; DataError if it cannot be used."""
    notes = [problem for problem in found.problems if not problem.is_fatal]
    fatal = [problem for problem in found.problems if problem.is_fatal]
    for problem in [*limited(notes), *limited(fatal)]:
        print(problem, file=sys.stderr)
    if fatal:
        number = sum(problem.number for problem in fatal)
        raise DataError(f'the data cannot be used as it is ({number} problems, see above)')


def _check_content(found: Found, splits: Splits) -> None:
    """Reject splits without anything to learn, and note classes that are not in one of them."""
    for split in ('train', 'val'):
        present = set().union(*(sample.present for sample in splits[split]))
        if not present:
            raise DataError(f'{split} has no labels')
        absent = [name for label, name in enumerate(found.classes) if label not in present]
        if absent:
            found.choices.append(('note', f'{split} has nothing of {shorten(absent)}'))


def _check_package(data: Path, task: str) -> None:
    """Exit with one sentence if the package that trains for a task is not installed."""
    from ..arguments import check_package

    package = {'segmentation': 'mmseg', 'classification': 'mmpretrain'}.get(task, 'mmdet')
    check_package(package, f'training on {data} ({task})')


def _write(args: argparse.Namespace, measured: Measured, recipe: Recipe) -> list[tuple[str, str]]:
    """Write the data and the config, after training a few steps; return all choices."""
    folder = _data_out(args).absolute()
    root = image_root(measured.splits)
    name = args.data.resolve().name

    def text(
        recipe: Recipe, annotations: Path, seconds: tuple[float, float] | None
    ) -> tuple[str, str]:
        schedule = choose_schedule(measured, recipe, seconds, args.minutes)
        return config_text(measured, recipe, schedule, root, annotations, name), schedule.why

    folder.parent.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    seconds = None
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as temporary:
        built = Path(temporary, 'data')
        write_dataset(measured.found, measured.splits, built)

        if not args.no_try:
            trial = Path(temporary, 'trial.py')
            recipe, seconds = _try(trial, lambda recipe: text(recipe, built, None)[0], recipe)
        content, why = text(recipe, folder, seconds)
        put_in_place(built, folder)
    write_atomically(args.out, content.encode())
    return [*measured.found.choices, *recipe.choices, ('schedule', why)]


def _try(
    file: Path, text: Callable[[Recipe], str], recipe: Recipe
) -> tuple[Recipe, tuple[float, float] | None]:
    """Train a few steps with the config of a recipe.

    Returns:
        the recipe, with fewer images per step if those of ``recipe`` do not fit into a GPU; and the
        seconds per image of training and of prediction.
    """
    import torch

    from .trial import try_config

    if recipe.device == 'cuda' and not torch.cuda.is_available():
        print('There is no GPU here, so the config was not tried.', file=sys.stderr)
        return recipe, None
    while True:
        file.write_text(text(recipe))
        try:
            return recipe, try_config(file, recipe.device)
        except CheckpointError as error:
            sys.exit(f'--pretrained {recipe.pretrained}: {error}')
        except torch.cuda.OutOfMemoryError:
            recipe = recipe.with_half_the_batch()
        torch.cuda.empty_cache()


def _run(config: Path, work_dir: Path) -> int:
    """Train, write a report and export; return the first status that is not 0."""
    from ...report.work_dir import find_checkpoint
    from ..arguments import run_tool

    file = work_dir / f'{config.stem}.onnx'
    exports = all(find_spec(name) for name in ('onnx', 'onnxruntime'))
    status = run_tool('train', config) or run_tool('report', work_dir)
    if not status and exports:
        status = run_tool('export', config, find_checkpoint(work_dir), '--out', file)
    if not status:
        onnx = f'ONNX: {file}' if exports else "ONNX: needs pip install 'mmatm[export]'"
        print(f'\nconfig: {config}\nreport: {work_dir / "report.html"}\n{onnx}')
    return status


__all__ = ['main']
