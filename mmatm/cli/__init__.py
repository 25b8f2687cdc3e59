"""The command ``mmatm``, which runs all tools."""

import ast
import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ..packaged import folder
from ..version import __version__

# Commands that are not scripts in tools/.
_MODULES = {
    'configs': 'mmatm.cli.configs',
    'env': 'mmatm.env',
    'mim': 'mmatm.cli.mim',
    'operators': 'mmatm.cli.operators',
    'weights': 'mmatm.cli.weights',
}
# Scripts whose command has another name.
_NAMES = {'new-config': 'new'}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``mmatm COMMAND ARGUMENTS``; without a command, list the commands."""
    try:
        _main(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        print('\ninterrupted', file=sys.stderr)
        sys.exit(130)


def _main(arguments: list[str]) -> None:
    # Threads that wait for each other without sleeping take twice the time where other programs
    # run. OpenMP reads this when torch is imported.
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', '1000')
    command = arguments[0].replace('_', '-') if arguments else '--help'
    if command in ('-h', '--help', 'help'):
        print(_usage())
    elif command in ('-V', '--version'):
        print(f'mmatm {__version__}')
    elif command in _MODULES:
        sys.argv = [f'mmatm {command}', *arguments[1:]]
        import_module(_MODULES[command]).main()
    elif script := _scripts().get(command):
        _run(command, script, arguments[1:])
    else:
        similar = difflib.get_close_matches(command, [*_MODULES, *_scripts()], n=1)
        hint = f'; did you mean {similar[0]}?' if similar else ''
        sys.exit(
            f'mmatm: unknown command {arguments[0]!r}; "mmatm --help" lists the commands{hint}'
        )


def _scripts() -> dict[str, Path]:
    """Map command names to the scripts in ``tools/``."""
    tools = folder() / 'tools'
    files = sorted([*tools.glob('*.py'), *tools.glob('analysis/*.py'), *tools.glob('*.sh')])
    names = [file.stem.replace('_', '-') for file in files]
    return {_NAMES.get(n, n): file.resolve() for n, file in zip(names, files, strict=True)}


def _run(command: str, script: Path, arguments: Sequence[str]) -> None:
    if script.suffix == '.sh':
        os.environ.setdefault('PYTHON', sys.executable)
        os.execvp('bash', ['bash', str(script), *arguments])
    sys.argv = [f'mmatm {command}', *arguments]  # runpy would name the script instead
    code = compile(script.read_bytes(), str(script), 'exec')
    exec(code, {'__name__': '__main__', '__file__': str(script)})


def _usage() -> str:
    lines = ['usage: mmatm COMMAND [ARGUMENTS]', '']
    purposes = {name: _purpose(script) for name, script in _scripts().items()}
    purposes |= {name: _purpose(_source(module)) for name, module in _MODULES.items()}
    width = max(map(len, purposes)) + 2
    lines += [f'  {name:{width}}{purposes[name]}' for name in sorted(purposes)]
    lines += ['', '"mmatm COMMAND --help" explains one. CONFIG is a file or the name of a packaged']
    lines += ['config, e.g. mask_rcnn_atmnet_t.']
    return '\n'.join(lines)


def _source(module: str) -> Path:
    return Path(__file__).parents[1].joinpath(*module.split('.')[1:]).with_suffix('.py')


def _purpose(file: Path) -> str:
    """The first line of a script's docstring or comment, without the example."""
    text = file.read_text()
    if file.suffix == '.sh':
        line = text.splitlines()[1].removeprefix('# ')
    else:
        line = (ast.get_docstring(ast.parse(text)) or '').split('\n')[0]
    return line.split(': ')[0].rstrip(':.')
