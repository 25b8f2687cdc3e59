"""The scripts that come with the installed mmdet and mmseg."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config


def run_tool(name: str) -> None:
    """Run the script ``name`` of the package that the config (the first argument) is for.

    Exits with one sentence if there is no config, no such package or no such script.
    """
    configs = [argument for argument in sys.argv[1:] if argument.endswith('.py')]
    if configs and not Path(configs[0]).is_file():
        sys.exit(f'config {configs[0]} does not exist')
    package = Config.fromfile(configs[0]).default_scope if configs else 'mmdet'
    spec = find_spec(package)
    if spec is None:
        sys.exit(f'{package} is not installed: run "make setup"')
    tools = Path(spec.submodule_search_locations[0], '.mim', 'tools')
    scripts = [p for p in sorted(tools.glob('**/*.py')) if p.as_posix().endswith(f'/{name}')]
    if not scripts:
        sys.exit(f'this installation of {package} comes without its tool {name}')
    runpy.run_path(str(scripts[0]), run_name='__main__')
