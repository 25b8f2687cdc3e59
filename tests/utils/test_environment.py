"""The description of the environment, also of broken ones."""

import sys
from importlib.metadata import version

import pytest
import torch

import commands
from commands import ROOT, python
from mmatm import __version__
from mmatm.utils import collect_env, find_problems
from mmatm.utils import environment as module
from mmatm.utils.environment import explain


def run(folder, *arguments, code=0):
    """Run Python where the modules and distributions in ``folder`` come before all others."""
    done = python(*arguments, path=f'{folder}:{ROOT}', code=code)
    return done.stdout + done.stderr


def run_after_torch(folder, *command, code=0):
    """The same in a process that has imported torch and torchvision, which saves seconds."""
    return commands.run(*command, path=[folder, ROOT], code=code)


def failing(statement):
    """A program that prints the error of ``statement``, and then the report."""
    return (
        f'import runpy\ntry:\n    {statement}\nexcept ImportError as error:\n    print(error)\n'
        'runpy.run_module("mmatm.env", run_name="__main__")'
    )


def distribution(folder, name, number):
    info = folder / f'{name.replace("-", "_")}-{number}.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n')


def package(folder, name, code=''):
    (folder / name).mkdir()
    (folder / name / '__init__.py').write_text(code)


def test_collect_env_names_what_is_installed():
    env = collect_env()
    assert env['mmatm'] == __version__
    assert env['torch'] == f'torch {version("torch")}'
    assert env['PyTorch'] == torch.__version__
    assert 'mmengine' in env['mmengine']
    assert 'reference' in env['backends of active_sample']
    assert all(isinstance(value, str) for value in env.values())
    assert not [name for name in env if name.startswith('problem')]


def test_report_from_the_command_line():
    program = 'import runpy; runpy.run_module("mmatm.env", run_name="__main__", alter_sys=True)'
    printed = commands.run('-c', program)
    assert 'RuntimeWarning' not in printed
    assert f'mmatm: {__version__}\n' in printed
    assert 'problem' not in printed


@pytest.mark.parametrize('name', ['mmengine', 'mmcv', 'mmdet', 'mmseg'])
def test_two_distributions_of_a_package(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    both = module._MM_PACKAGES[name][:2]
    for number, each in enumerate(both):
        distribution(tmp_path, each, f'9.{number}')
    (problem,) = find_problems()
    assert f'{both[0]} 9.0 and {both[1]} 9.1' in problem
    assert f'pip uninstall -y {both[0]} {both[1]}' in problem
    assert '\n' not in problem


def test_two_distributions_stop_the_import_but_not_the_report(tmp_path):
    for name in ('mmcv', 'onedl-mmcv'):
        distribution(tmp_path, name, '9.9')
    printed = run_after_torch(tmp_path, 'mmatm', 'train', 'mask_rcnn_atmnet_t', code=1)
    last = printed.splitlines()[-1]
    assert last.startswith('mmcv is installed twice')
    assert 'mmatm env' in last
    package(tmp_path, 'torch', 'raise OSError("libtorch.so: no such file")')
    printed = run(tmp_path, '-m', 'mmatm.env')
    assert 'OSError: libtorch.so: no such file; mmcv is installed twice' in printed
    assert 'mmcv: mmcv 9.9 and onedl-mmcv 9.9' in printed
    assert 'problem 1: mmcv is installed twice' in printed


def test_torchvision_of_another_build(tmp_path):
    package(
        tmp_path, 'torchvision', 'raise RuntimeError("operator torchvision::nms does not exist")'
    )
    distribution(tmp_path, 'torchvision', '0.1.2+cpu')
    error, report = run(tmp_path, '-c', failing('import mmatm, timm')).split('\n', 1)
    assert error.startswith('torch ')
    assert 'torchvision 0.1.2+cpu are not from one build' in error
    assert 'pip install' in error
    assert 'torchvision: torchvision 0.1.2+cpu\n' in report
    assert 'problem 1: torch ' in report


def test_opencv_that_does_not_load(tmp_path):
    reason = 'libGL.so.1: cannot open shared object file'
    package(tmp_path, 'cv2', f'raise ImportError({reason!r}, name="cv2")')
    program = failing('import mmatm, mmengine.runner')
    error, report = run_after_torch(tmp_path, '-c', program).split('\n', 1)
    assert error.startswith('OpenCV, which mmengine needs, cannot be imported')
    assert reason in error
    assert 'pip install opencv-python-headless' in error
    assert 'problem 1: OpenCV, which mmengine needs' in report


def test_other_failures_are_left_as_they_are(tmp_path):
    package(tmp_path, 'timm', 'raise OSError("a damaged disk")')
    printed = run_after_torch(tmp_path, '-c', 'import mmatm, timm', code=1)
    assert printed.splitlines()[-1] == 'OSError: a damaged disk'
    assert explain(ModuleNotFoundError("No module named 'torchvision'")) is None


def test_a_thorough_search_names_what_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    (problem,) = find_problems(thorough=True)
    assert problem.startswith('timm cannot be imported: ModuleNotFoundError')


def test_missing_library_is_explained(monkeypatch):
    from mmatm.ops import cpp

    monkeypatch.setattr(cpp, '_library', None)
    monkeypatch.setattr(cpp, 'load_error', 'undefined symbol')
    assert 'cpp not built (undefined symbol)' in collect_env()['backends of active_sample']
