"""The sdist and the wheel, built and installed away from the clone."""

import shutil
import tarfile
import zipfile

import pytest

from commands import ROOT, python, run

LEFT_OUT = ('.git', '.venv*', 'build', 'dist', 'data', 'work_dirs', '*.egg-info', '.mim', '*.so')


@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    """The folder of an sdist, and of the wheel built from it."""
    clone = tmp_path_factory.mktemp('build') / 'clone'
    ignored = shutil.ignore_patterns(*LEFT_OUT)
    top = [str(path) for path in (ROOT / 'data', ROOT / 'build')]
    shutil.copytree(
        ROOT,
        clone,
        ignore=lambda folder, names: [
            name
            for name in ignored(folder, names)
            if name not in ('data', 'build') or f'{folder}/{name}' in top
        ],
    )
    hasty = clone.parent / 'hasty'  # optimising takes a minute
    hasty.write_text('#!/usr/bin/env bash\nexec c++ "${@/#-O3/-O0}"\n')
    hasty.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('CXX', str(hasty))
        python('-m', 'build', '--no-isolation', cwd=clone, path='')
    return clone / 'dist'


@pytest.fixture(scope='module')
def installed(dist, tmp_path_factory):
    """A folder into which the wheel is installed."""
    folder = tmp_path_factory.mktemp('installed')
    (wheel,) = dist.glob('*.whl')
    python('-m', 'pip', 'install', '--quiet', '--no-deps', '--target', folder, wheel, path='')
    return folder


def test_wheel_serves_every_python(dist):
    (wheel,) = dist.glob('*.whl')
    assert '-py3-none-' in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert sum('/.mim/configs/' in name for name in names) > 60
    assert 'mmatm/.mim/tools/train.py' in names
    assert 'mmatm/.mim/model-index.yml' in names
    assert 'mmatm/report/page/report.js' in names
    assert {f'mmatm/look/page/page.{kind}' for kind in ('html', 'css', 'js')} <= set(names)
    has_library = any(name.endswith('.so') for name in names)
    assert has_library != wheel.name.endswith('-any.whl')


def test_sdist_is_complete(dist):
    (sdist,) = dist.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert {'requirements/runtime.txt', 'mmatm/ops/csrc/kernels.h', 'tools/train.py'} <= names
    assert {'configs/detection/mask_rcnn_atmnet_t.py', 'model-index.yml'} <= names


def test_installed_command_finds_configs(installed, tmp_path):
    # In a new process, as a user's.
    done = python('-m', 'mmatm', 'configs', 'upernet*', cwd=tmp_path, path=installed)
    assert str(installed) in done.stdout


def test_installed_package_trains(installed, tmp_path, options):
    pytest.importorskip('mmdet')
    work_dir = tmp_path / 'work'
    run('mmatm', 'train', 'mask_rcnn_atmnet_xt_demo', '--work-dir', work_dir, *options,
        cwd=tmp_path, path=[installed])  # fmt: skip
    assert (work_dir / 'epoch_1.pth').is_file()


def test_config_inherits_from_the_installed_package(installed, tmp_path, seg_options):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'mmatm::segmentation/fpn_atmnet_xt_demo.py'\n")
    run('mmatm', 'train', config, *seg_options, cwd=tmp_path, path=[installed])
    assert list(tmp_path.glob('work_dirs/mine/*.pth'))


def test_hub_and_inferencer_know_the_models(installed, tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    code = f"""
import mmatm, torch
from mmengine.hub import get_config, get_model
assert get_config('mmatm::detection/mask_rcnn_atmnet_t.py').filename.startswith({str(installed)!r})
detector = get_model('mmatm::detection/mask_rcnn_atmnet_xt_demo.py')
torch.save(dict(state_dict=detector.state_dict(), meta=dict()), 'detector.pth')
segmentor = get_model('mmatm::segmentation/fpn_atmnet_xt.py')
assert type(segmentor.neck).__module__.startswith('mmseg'), type(segmentor.neck)
from mmdet.apis import DetInferencer
inferencer = DetInferencer('mask_rcnn_atmnet_xt_demo', 'detector.pth', device='cpu')
assert type(inferencer.model).__name__ == 'MaskRCNN'
"""
    run('-c', code, cwd=tmp_path, path=[installed])
