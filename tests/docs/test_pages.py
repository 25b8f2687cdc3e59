"""The code and the commands in the README and docs/, run or looked up."""

import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from commands import ROOT, derive
from mmatm.checkpoints.reading import TRUST_FLAG
from mmatm.cli import _MODULES, _scripts
from mmatm.packaged import find_config
from reference import published_state_dict

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
STARTS = ('make', 'mmatm', 'python')
SHARED = (ROOT / 'mmatm' / 'cli' / 'arguments.py').read_text()
SHARED = SHARED.replace('TRUST_FLAG', repr(TRUST_FLAG))  # the one flag named elsewhere


def commands():
    """Lines of the indented blocks, with continued lines joined."""
    for page, text in sorted(PAGES.items()):
        block = '\n'.join(line for line in text.splitlines() if line.startswith('    '))
        for line in block.replace('\\\n', ' ').splitlines():
            with suppress(ValueError):  # prose with an apostrophe
                words = shlex.split(line.strip(), comments=True)
                if words and (words[0] in STARTS or words[0].startswith('tools/')):
                    yield page, words


COMMANDS = list(commands())


def test_blocks_are_found():
    assert len(PROGRAMS) >= 4
    assert CONFIGS
    assert len(COMMANDS) >= 15


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A function that writes the checkpoints which a block reads, where it looks for them."""
    monkeypatch.chdir(tmp_path)

    def write(block):
        if 'mmdet' in block:
            pytest.importorskip('mmdet')
        if 'detector.pth' in block:
            from mmengine.hub import get_model

            model = get_model('mmatm::detection/mask_rcnn_atmnet_xt_demo.py')
            torch.save(dict(state_dict=model.state_dict(), meta=dict()), 'detector.pth')
        if 'atmnet_xt.pth' in block:
            torch.save(dict(model=published_state_dict('xt', head=True)), 'atmnet_xt.pth')

    return write


@pytest.mark.parametrize(('page', 'block'), PROGRAMS)
def test_program_runs(page, block, files, capsys):
    files(block)
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
    for word in words[1:]:
        if re.match(r'(tools|configs)/.*\.(py|sh)$', word):
            assert (ROOT / word).is_file() or word.endswith('/mine.py'), f'{page}: no {word}'
        elif re.fullmatch(r'\w*atmnet_\w+(\.py)?', word):
            find_config(word)
    script = Path(next((word for word in words if word.startswith('tools/')), 'none'))
    if words[0] == 'mmatm' and len(words) > 1:
        assert words[1] in {**_MODULES, **_scripts()}, f'{page}: no command {words[1]}'
        script = _scripts().get(words[1], script)
    if script.suffix == '.py' and 'browse' not in script.name:  # that one passes them on
        source = (ROOT / script).read_text() + SHARED
        for option in (word for word in words if word.startswith('--')):
            assert f"'{option}'" in source, f'{page}: {script} has no {option}'
