"""model-index.yml, the metafiles and the tables of the READMEs against the configs."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

mmdet = pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
ROOT = Path(__file__).parents[2]
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())
FAMILIES = {path: yaml.safe_load((ROOT / path).read_text()) for path in INDEX['Import']}
ENTRIES = [model for family in FAMILIES.values() for model in family['Models']]


def test_every_config_has_an_entry():
    listed = {entry['Config'] for entry in ENTRIES}
    there = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob('configs/*/*atmnet_*.py')
        if path.parent.parent.name == 'configs' and '_demo' not in path.stem
    }
    assert listed == {path for path in there if '_base_' not in path}
    assert len(ENTRIES) == 78
    assert len({entry['Name'] for entry in ENTRIES}) == 78  # the tools take a config by its name


@pytest.mark.parametrize('family', list(FAMILIES))
def test_collections_resolve(family):
    (collection,) = FAMILIES[family]['Collections']
    assert (ROOT / collection['README']).is_file()
    assert (ROOT / collection['Code']['URL']).is_file()
    for entry in FAMILIES[family]['Models']:
        assert entry['In Collection'] == collection['Name']


@pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry['Name'])
def test_entry_describes_its_config(entry, monkeypatch):
    # What has no numbers needs no initial values, and torch takes long to make none.
    monkeypatch.setattr('mmatm.models.atmnet.init_parameters', lambda module: None)
    if 'classification' in entry['Config']:
        pytest.importorskip('mmpretrain')
    if 'dino' in entry['Name'] and mmdet.__version__ < '3.5':
        pytest.skip('its DINO has a layer with 131072 parameters less')
    file = ROOT / entry['Config']
    assert file.stem == entry['Name']
    cfg = Config.fromfile(file)
    loop, said = cfg.train_cfg, entry['Metadata']
    assert said.get('Epochs') == loop.get('max_epochs')
    assert said.get('Iterations') == loop.get('max_iters')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert said['Parameters'] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_readme_repeats_the_metafile(task):
    text = (ROOT / 'configs' / task / 'README.md').read_text()
    rows = {
        re.search(r'\]\((\S+)\.py\)', line)[1]: line
        for line in text.splitlines()
        if line.endswith('.py) |')
    }
    family = FAMILIES[f'configs/{task}/metafile.yml']['Models']
    assert list(rows) == [entry['Name'] for entry in family]
    for entry in family:
        said, row = entry['Metadata'], rows[entry['Name']]
        assert f'| {said["Parameters"] / 1e6:.1f} M | {said["FLOPs"] / 1e9:.1f} G |' in row
        for figure in said.get('Paper', {}).values():
            assert f' {figure:.2f} |' in row or f' {figure} |' in row
