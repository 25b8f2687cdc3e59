"""The code and the commands in the README and docs/, run or looked up."""

import re
import shlex
from contextlib import suppress

import pytest
from mmengine.config import Config

from commands import ROOT, derive
from mmatm.models.checkpoint import TRUST_FLAG

PAGES = {p.relative_to(ROOT).as_posix(): p.read_text() for p in [*ROOT.glob('docs/*.md')]}
PAGES['README.md'] = (ROOT / 'README.md').read_text()
BLOCKS = [
    (page, block)
    for page, text in sorted(PAGES.items())
    for block in re.findall(r'```python\n(.*?)```', text, re.S)
]
PROGRAMS = [(p, b) for p, b in BLOCKS if re.search(r'^(import|from) ', b, re.M)]
CONFIGS = [(p, b) for p, b in BLOCKS if (p, b) not in PROGRAMS and p != 'docs/training.md']
MAKEFILE = (ROOT / 'Makefile').read_text()


def commands():
    """Lines of the indented blocks, with continued lines joined."""
    for page, text in sorted(PAGES.items()):
        block = '\n'.join(line for line in text.splitlines() if line.startswith('    '))
        for line in block.replace('\\\n', ' ').splitlines():
            with suppress(ValueError):  # prose with an apostrophe
                words = shlex.split(line.strip(), comments=True)
                if words and (words[0] in ('make', 'python') or words[0].startswith('tools/')):
                    yield page, words


COMMANDS = list(commands())


def test_blocks_are_found():
    assert len(PROGRAMS) >= 4
    assert CONFIGS
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize(('page', 'block'), PROGRAMS)
def test_program_runs(page, block, capsys):
    exec(compile(block, page, 'exec'), {})
    for expected in re.findall(r'^# (\[.+)$', block, re.M):  # what the block says it prints
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(('page', 'block'), CONFIGS)
def test_config_is_one(page, block, tmp_path):
    pytest.importorskip('mmdet')
    cfg = Config.fromfile(
        derive('configs/detection/mask_rcnn_atmnet_t.py', block, tmp_path / 'mine.py')
    )
    assert cfg.model.backbone.type == 'ATMNet'


@pytest.mark.parametrize(('page', 'words'), COMMANDS, ids=lambda value: ' '.join(value)[:60])
def test_command_exists(page, words):
    if words[0] == 'make':
        targets = [word for word in words[1:] if re.fullmatch('[a-z-]+', word)][:1]
        assert re.search(rf'^{targets[0]}:', MAKEFILE, re.M), f'{page}: no target {targets[0]}'
        return
    files = [word for word in words if re.match(r'(tools|configs)/.*\.(py|sh)$', word)]
    for file in files:
        assert (ROOT / file).is_file() or file.endswith('/mine.py'), f'{page}: no {file}'
    tools = [file for file in files if re.match(r'tools/.*\.py$', file)]
    if tools:
        source = (ROOT / tools[0]).read_text() + (ROOT / 'tools' / 'common.py').read_text()
        source = source.replace('TRUST_FLAG', repr(TRUST_FLAG))  # the one flag named elsewhere
        for option in (
            word for word in words if word.startswith('--') and 'browse' not in tools[0]
        ):
            assert f"'{option}'" in source, f'{page}: {tools[0]} has no {option}'
