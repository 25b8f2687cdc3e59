"""What ``import mmatm`` changes in a process: names, and nothing else."""

import json
from importlib.util import find_spec

import pytest

import commands
from commands import python


def run(code, *arguments):
    """What a process that has imported torch and torchvision prints as JSON."""
    return json.loads(commands.run('-c', code, *arguments, path=[]).splitlines()[-1])


def run_anew(code):
    """What a new process prints as JSON."""
    return json.loads(python('-c', code).stdout.splitlines()[-1])


STATE = """
import gc, json, re, sys
if sys.argv[1] == 'with':
    import mmatm
import torch, timm, mmengine.runner, mmcv, mmcv.transforms
if sys.argv[2] == 'mmdet':
    import mmdet.models, mmdet.datasets, mmdet.engine
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.registry import MODELS

def members(module):
    return {
        f'{cls.__module__}.{cls.__qualname__}.{name}': repr(getattr(value, '__module__', ''))
        for cls in vars(module).values() if isinstance(cls, type)
        for name, value in vars(cls).items()
    }

get = getattr(torch.serialization, 'get_safe_globals', list)
print(json.dumps(dict(
    schemes={k: f'{v.__module__}.{v.__qualname__}' for k, v in CheckpointLoader._schemes.items()},
    safe=sorted(re.sub(' at 0x.*', '', repr(value)) for value in get()),  # no addresses
    classes={
        name: members(module)
        for name, module in sorted(sys.modules.items())
        if name.startswith(('mmcv', 'mmdet')) and module is not None
    },
    torch_load=torch.load.__module__,
    collects=gc.isenabled(),
    registered='ATMNet' in MODELS.module_dict,
)))
"""


def test_only_names_are_added():
    from mmatm.utils.operators import compiled_operators, mmcv_folder

    # Without them and without mmatm, mmdet cannot be imported.
    package = 'mmdet' if compiled_operators(mmcv_folder()) and find_spec('mmdet') else 'mmcv'
    without, with_it = (run(STATE, word, package) for word in ('without', 'with'))
    assert with_it.pop('registered')
    assert not without.pop('registered')
    assert with_it['schemes'].pop('ema:').startswith('mmatm.')
    assert with_it == without


def test_timm_needs_no_mm_package():
    code = """
import json, sys
for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'cv2'):
    sys.modules[name] = None  # an import fails
import mmatm, timm, torch
from mmatm.checkpoints import read_checkpoint
model = timm.create_model('atmnet_xt', num_classes=2).eval()
print(json.dumps([len(timm.list_models('atmnet*')), *model(torch.zeros(1, 3, 32, 32)).shape]))
"""
    assert run_anew(code) == [5, 1, 2]


def test_importing_is_cheap():
    code = "import json, sys, mmatm; print(json.dumps('torch' in sys.modules))"
    assert run_anew(code) is False


@pytest.mark.parametrize('first', ['mmatm', 'mmengine', 'timm'])
def test_order_of_imports_does_not_matter(first):
    code = f"""
import json, {first}, mmatm
from mmengine.registry import HOOKS, MODELS
import timm, torch
print(json.dumps([
    'ATMNet' in MODELS.module_dict, 'FiniteLossHook' in HOOKS.module_dict,
    timm.is_model('atmnet_t'), hasattr(torch.ops.mmatm, 'active_sample'),
]))
"""
    # A new process imports even torch after mmatm.
    assert (run_anew if first == 'mmatm' else run)(code) == [True] * 4


def test_files_of_other_models_load_as_without_mmatm(tmp_path):
    code = """
import json, re, sys
if sys.argv[1] == 'with':
    import mmatm
import torch
from torch import nn
from mmengine.runner import load_checkpoint, save_checkpoint

class Node(dict):  # as yacs' configs in the files of Swin
    pass

sys.modules['yacs_like'] = module = type(sys)('yacs_like')
Node.__module__, module.Node = 'yacs_like', Node
model = nn.Linear(2, 2)
file = sys.argv[2]
content = {'state_dict': model.state_dict(), 'config': Node(a=1), 'meta': {'config': 'x = 1'}}
torch.save(content, file)
try:
    content = load_checkpoint(nn.Linear(2, 2), file)
    outcome = sorted(content), content['meta']['config']
except Exception as error:
    outcome = type(error).__name__
print(json.dumps(outcome))
"""
    outcomes = [run(code, word, tmp_path / 'swin.pth') for word in ('without', 'with')]
    assert outcomes[0] == outcomes[1]


def test_safe_globals_are_put_back(tmp_path):
    code = """
import json, sys, argparse
import mmatm, torch
from mmatm.checkpoints import read_checkpoint
get = getattr(torch.serialization, 'get_safe_globals', list)
before = sorted(map(repr, get()))  # torch returns a set in any order
torch.save({'state_dict': {}, 'args': argparse.Namespace(lr=1)}, sys.argv[1])
read_checkpoint(sys.argv[1])
print(json.dumps(before == sorted(map(repr, get()))))
"""
    assert run(code, tmp_path / 'file.pth')


def test_operators_are_found_where_mmcv_has_none():
    pytest.importorskip('mmcv')
    code = """
import json, mmatm, importlib.util
spec = importlib.util.find_spec('mmcv._ext')
import mmcv.ops
print(json.dumps([spec is not None, callable(mmcv.ops.nms)]))
"""
    assert run(code) == [True, True]


MODULES = 'data', 'engine', 'models.atmnet', 'checkpoints.loading', 'registry', 'mm', 'models'


def test_any_module_can_come_first():
    code = """
import json, os, sys, torch, timm, mmengine.runner
from importlib import import_module
from mmengine.registry import HOOKS, MODELS

failed = []
for name in sys.argv[1:]:
    if not os.fork():
        import_module(f'mmatm.{name}')
        os._exit(not ('ATMNet' in MODELS.module_dict and 'CheckDataHook' in HOOKS.module_dict))
    if os.wait()[1]:
        failed.append(name)
print(json.dumps(failed))
"""
    assert run(code, *MODULES) == []
