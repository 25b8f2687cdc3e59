"""The pages: programs run, configs parse, and commands, messages and links exist."""

import ast
import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config

from commands import ROOT, derive, run
from mmatm.checkpoints.reading import TRUST_FLAG
from mmatm.cli import _MODULES, _scripts
from mmatm.models import ATMNet
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
CONFIGS = [block for block in BLOCKS if block not in PROGRAMS]
OWN_DATA = next(b for p, b in CONFIGS if p == 'docs/training.md')
MAKEFILE = (ROOT / 'Makefile').read_text()
STARTS = ('make', 'mmatm', 'python')
BASE = 'configs/detection/mask_rcnn_atmnet_t.py'
SHARED = ''.join(file.read_text() for file in (ROOT / 'mmatm' / 'cli').rglob('*.py'))
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
GAP = '…'  # where a message in docs/troubleshooting.md has a value
PHRASES = re.findall(r'^\|[^|]*?`[^|]*', PAGES['docs/troubleshooting.md'], re.M)
PHRASES = [phrase for cell in PHRASES for phrase in re.findall('`(.+?)`', cell)]
LINKING = [ROOT / 'README.md', *ROOT.glob('docs/*.md'), *ROOT.glob('configs/*/README.md')]


def test_blocks_are_found():
    assert len(PROGRAMS) >= 4
    assert CONFIGS
    assert len(COMMANDS) >= 15
    assert len(list(recipes())) == 12


def recipes():
    """The rows of the table of batch sizes and learning rates, with the config that each is of."""
    section = (
        PAGES['docs/training.md'].partition('## 1, 8 and 64 GPUs')[2].partition('\n\nThe bold')[0]
    )
    name = ''
    for line in section.splitlines():
        cells = [cell.strip('` *') for cell in line.strip('|').split('|')]
        if len(cells) == 6 and cells[1].isdigit():
            name = cells[0] or name
            yield name, *map(int, cells[1:4]), *cells[4:]


@pytest.mark.parametrize(('name', 'gpus', 'each', 'batch', 'linear', 'root'), recipes())
def test_batch_sizes_and_rates(name, gpus, each, batch, linear, root):
    for package in ('mmpretrain',) if 'in1k' in name else ('mmdet', 'mmseg'):
        pytest.importorskip(package)
    cfg = Config.fromfile(find_config(name))
    base = cfg.auto_scale_lr.base_batch_size
    assert batch == gpus * each
    assert each == cfg.train_dataloader.batch_size or gpus == 64
    rate = cfg.optim_wrapper.optimizer.lr
    assert float(linear) == pytest.approx(rate * batch / base)
    assert float(root or linear) == pytest.approx(rate * (batch / base) ** 0.5, rel=0.02)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A function that writes the checkpoints that a block reads."""
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
def test_block_is_a_config(page, block, tmp_path):
    pytest.importorskip('mmdet')
    file = tmp_path / 'mine.py'
    if '::' in block.split('\n')[0]:  # over a config of mmdet, so it is complete
        file.write_text(block)
    else:
        if block.startswith('_base_ = '):
            block = block.split('\n', 1)[1]
        derive(BASE, block, file)
    cfg = Config.fromfile(file)
    assert cfg.model.backbone.type == 'ATMNet'


def test_config_of_the_readme_is_complete(tmp_path):
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import DefaultScope

    config = tmp_path / 'mine.py'
    config.write_text(next(block for page, block in CONFIGS if page == 'README.md'))
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(model.backbone).__name__ == 'ATMNet'
    assert isinstance(optimizer, torch.optim.AdamW)  # not the SGD of the base, momentum and all


def test_config_for_own_data(demo_data, tmp_path):
    pytest.importorskip('mmdet')
    base, rest = OWN_DATA.split('\n', 1)
    assert base == f"_base_ = './{Path(BASE).name}'"
    config = derive(BASE, rest.replace('data/demo/', f'{demo_data}/'), tmp_path / 'mine.py')
    checkpoint = tmp_path / 'backbone.pth'
    weights = {f'backbone.{name}': value for name, value in ATMNet('xt').state_dict().items()}
    torch.save({'state_dict': weights}, checkpoint)
    run(
        'tools/train.py', config, '--work-dir', tmp_path, '--cfg-options',
        f'load_from={checkpoint}',  # the backbone alone: all shapes that fit are loaded
        *(f'{s}_dataloader.num_workers=0' for s in ('train', 'val')),
        *(f'{s}_dataloader.persistent_workers=False' for s in ('train', 'val')),
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        'model.backbone.arch=xt', 'train_cfg.max_epochs=1',
        'model.roi_head.bbox_head.fc_out_channels=64',  # which has most of the weights
        'train_dataloader.batch_size=4',
    )  # fmt: skip
    trained = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert trained['meta']['dataset_meta']['classes'] == ('circle', 'triangle', 'square', 'star')
    assert trained['state_dict']['roi_head.mask_head.conv_logits.weight'].shape[0] == 4


@pytest.mark.parametrize(('page', 'words'), COMMANDS, ids=lambda value: ' '.join(value)[:60])
def test_command_exists(page, words):
    if words[0] == 'make':
        targets = [word for word in words[1:] if re.fullmatch('[a-z-]+', word)][:1]
        assert re.search(rf'^{targets[0]}:', MAKEFILE, re.M), f'{page}: no target {targets[0]}'
        return
    for word in words[1:]:
        if re.match(r'(tools|configs)/.*\.(py|sh)$', word):
            assert (ROOT / word).is_file() or word.endswith('/mine.py'), f'{page}: no {word}'
        elif re.fullmatch(r'\w*atmnet_\w+(\.py)?', word) and not timm.is_model(word):
            find_config(word)
    script = Path(next((word for word in words if word.startswith('tools/')), 'none'))
    if words[0] == 'mmatm' and len(words) > 1:
        assert words[1] in {**_MODULES, **_scripts()}, f'{page}: no command {words[1]}'
        script = _scripts().get(words[1], script)
    if script.suffix == '.py' and 'browse' not in script.name:  # that one passes them on
        source = (ROOT / script).read_text() + SHARED
        for option in (word for word in words if word.startswith('--')):
            assert f"'{option}'" in source, f'{page}: {script} has no {option}'


def texts():
    """All strings in the source, with gaps for formatted values."""
    for folder in ('mmatm', 'tools'):
        for file in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield ''.join(
                        part.value if isinstance(part, ast.Constant) else GAP
                        for part in node.values
                    )


def test_quoted_messages_exist():
    assert len(PHRASES) > 20
    source = list(texts())
    patterns = {p: re.compile('.*'.join(map(re.escape, p.split(GAP))), re.S) for p in PHRASES}
    assert not [p for p, pattern in patterns.items() if not any(map(pattern.search, source))]


def anchors(file):
    """The anchors of the headings in a page, as GitHub and MkDocs make them."""
    headings = re.findall(r'^#+ (.+)$', file.read_text(), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
        if '://' in link:
            continue
        name, _, anchor = link.partition('#')
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
