"""What training left in its work directory: the config, checkpoints and text logs."""

import re
from datetime import datetime
from pathlib import Path


class ReportError(ValueError):
    """A report cannot be made; the message is one sentence for the user."""


def find_config(work_dir: Path, runs: list[Path]) -> tuple[str, Path]:
    """Return the name of the config that was trained, and the file that holds it.

    Args:
        work_dir: the folder that was given to training.
        runs: folders of its training runs in it, oldest first.

    Raises:
        ReportError: training wrote no config there.
    """
    top = sorted(work_dir.glob('*.py'), key=lambda file: file.stat().st_mtime)
    own = [f for run in runs if (f := run / 'vis_data' / 'config.py').is_file()]
    if not top and not own:
        raise ReportError(f'{work_dir} holds no config (*.py), which training writes there')
    name = top[-1].stem if top else work_dir.resolve().name
    # A later evaluation with other settings replaces the file at the top.
    if not top or (own and own[-1].read_text() != top[-1].read_text()):
        return name, own[-1]
    return name, top[-1]


def find_checkpoint(work_dir: Path) -> Path:
    """Return the best checkpoint, else the last one.

    Raises:
        ReportError: there is none.
    """
    if best := list(work_dir.glob('best_*.pth')):
        return max(best, key=lambda file: file.stat().st_mtime)
    last = work_dir / 'last_checkpoint'
    if last.is_file():
        named = Path(last.read_text().strip())
        # Relative to the work directory if possible, which may also have been moved.
        for file in (work_dir / named.name, named):
            if file.is_file():
                return file
    numbered = {
        int(match[1]): file
        for file in work_dir.glob('*.pth')
        if (match := re.fullmatch(r'(?:epoch|iter)_(\d+)', file.stem))
    }
    if not numbered:
        raise ReportError(
            f'{work_dir} holds no checkpoint (best_*.pth, epoch_*.pth or iter_*.pth); train '
            'first, or name one with --checkpoint'
        )
    return numbered[max(numbered)]


def read_logs(runs: list[Path]) -> tuple[dict[str, str], float]:
    """Read the text logs of training runs.

    Returns:
        What the last one says about versions and hardware, and the seconds from the first to the
        last line of each, added up.
    """
    environment: dict[str, str] = {}
    seconds = 0.0
    for run in runs:
        text = ''.join(file.read_text(errors='replace') for file in sorted(run.glob('*.log')))
        found = re.findall(r'^    (Python|PyTorch|MMEngine|GPU [\d,]+): (.+)$', text, re.M)
        environment = dict(found) or environment
        times = re.findall(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ', text, re.M)
        # The lines of training itself lack the year, which may be the one after the start.
        if start := re.match(r'(\d{4})(\d\d)\d\d_', run.name):
            for month, rest in re.findall(r'^(\d\d)(/\d\d [\d:]{8}) - ', text, re.M):
                times.append(f'{int(start[1]) + (month < start[2])}/{month}{rest}')
        moments = sorted(filter(None, map(_moment, times)))
        if moments:
            seconds += (moments[-1] - moments[0]).total_seconds()
    return environment, seconds


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, '%Y/%m/%d %H:%M:%S')
    except ValueError:
        return None
