"""The command ``mmatm``, run as a user runs it."""

import os
import sys

import pytest

from commands import DETECTOR, ROOT, run
from mmatm import cli
from mmatm.packaged import find_config, model_names
from mmatm.utils import operators


def mmatm(*arguments, **options):
    return run('mmatm', *arguments, **options)


def test_every_tool_is_a_command():
    usage = mmatm()
    scripts = [*ROOT.glob('tools/*.py'), *ROOT.glob('tools/*.sh'), *ROOT.glob('tools/*/*.py')]
    assert len(scripts) > 15
    for script in scripts:
        name = {'new_config': 'new'}.get(script.stem, script.stem.replace('_', '-'))
        assert f'  {name} ' in usage
    assert usage == mmatm('--help')


def test_inherited_functions_take_no_scope(tmp_path):
    pytest.importorskip('mmpretrain')
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'mmatm::classification/atmnet_xt_in1k.py'")
    printed = mmatm('print-config', config)
    assert "type='default_collate'" in printed
    assert "_scope_='mmatm'" not in printed


def test_option_that_changes_nothing_is_a_warning():
    printed = mmatm('print-config', DETECTOR, '--cfg-options', 'data_root=/elsewhere/')
    assert 'set train_dataloader.dataset.data_root, ' in printed
    assert printed.count('warning') == 1
    options = ['data_root=/elsewhere/', 'train_cfg.max_epochs=7', 'default_scope=mmdet']
    assert mmatm('print-config', DETECTOR, '--cfg-options', *options).count('warning') == 1


@pytest.mark.parametrize(
    ('option', 'said'), [('a', "one value is 'a'"), ('a=(1,[2', 'Imbalanced brackets')]
)
def test_options_that_cannot_be_parsed(option, said):
    assert said in mmatm('print-config', DETECTOR, '--cfg-options', option, code=2)


def test_mistyped_setting_below_the_top_level_is_a_warning():
    option = 'test_dataloader.dataset.pipeline.1.scael=7'
    printed = mmatm('print-config', DETECTOR, '--cfg-options', option)
    assert 'did you mean test_dataloader.dataset.pipeline.1.scale?' in printed
    assert 'scael=7' in printed


@pytest.mark.parametrize(
    ('name', 'content', 'reason'),
    [
        ('mine.py', 'x = (', 'line 1'),
        ('mine.py', 'x = 1\ny = z', "NameError: name 'z' is not defined in line 2"),
        ('mine.json', '{"model":', 'JSONDecodeError'),
        ('mine.yaml', 'a: [1', 'did not find'),
        ('epoch_1.pth', '', 'must be a .py or .json or .yaml or .yml file'),
    ],
)
def test_config_that_cannot_be_read(name, content, reason, tmp_path):
    config = tmp_path / name
    config.write_text(content)
    message = mmatm('print-config', config, code=1)
    assert len(message.strip().splitlines()) == 1
    assert str(config) in message
    assert reason in message


@pytest.mark.parametrize(
    ('arguments', 'missing'),
    [
        (['train'], 'no model and no train_dataloader and no train_cfg and no optim_wrapper'),
        (['test', 'epoch_1.pth'], 'no model and no test_dataloader and no test_evaluator'),
        (['get-flops'], 'no model and no default_scope'),
    ],
)
def test_config_that_lacks_settings(arguments, missing, tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text('x = 1')
    command, *more = arguments
    message = mmatm(command, config, *more, code=1)
    assert message.strip() == f'config {config} sets {missing}'


def test_work_directory_that_cannot_be_made(tmp_path):
    pytest.importorskip('mmcv')
    from mmengine.config import Config

    from mmatm.cli.arguments import make_runner

    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match='file/runs cannot be written'):
        make_runner(Config(dict(work_dir=str(tmp_path / 'file' / 'runs'))))


def test_optimizers_of_other_packages_are_known():
    pytest.importorskip('mmpretrain')
    from mmengine.config import Config

    from mmatm.cli.arguments import check_optimizer

    def check(name):
        optim_wrapper = dict(optimizer=dict(type=name))
        check_optimizer(Config(dict(default_scope='mmpretrain', optim_wrapper=optim_wrapper)))

    check('Lamb')
    check('AdamW')
    with pytest.raises(SystemExit, match=r'Lamp.* Lamb'):
        check('Lamp')


@pytest.mark.parametrize(
    ('own', 'count'),
    [({}, '1000'), ({'GOMP_SPINCOUNT': '7'}, '7'), ({'OMP_WAIT_POLICY': 'a'}, None)],
)
def test_threads_sleep_while_they_wait(own, count, monkeypatch):
    for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'):
        monkeypatch.setenv(name, '')  # restored afterwards
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    cli.main(['--version'])
    assert os.environ.get('GOMP_SPINCOUNT') == count


def test_interrupted_command_is_one_line(monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, '_main', interrupt)
    with pytest.raises(SystemExit) as stopped:
        cli.main(['new'])
    assert stopped.value.code == 130
    assert capsys.readouterr().err.strip() == 'interrupted'


def test_usage_of_one_command():
    message = mmatm('trian', code=1)
    assert "unknown command 'trian'" in message
    assert 'did you mean train?' in message
    assert 'mean' not in mmatm('xyzzy', code=1)
    assert mmatm('get_flops', '--help').startswith('usage: mmatm get-flops')


@pytest.mark.parametrize(
    'name', ['mask_rcnn_atmnet_t', 'mask_rcnn_atmnet_t.py', str(ROOT / DETECTOR)]
)
def test_config_by_name_or_path(name):
    assert find_config(name).endswith('.py')


def test_config_names_in_commands(tmp_path):
    assert "type='MaskRCNN'" in mmatm('print-config', 'mask_rcnn_atmnet_t', cwd=tmp_path)
    (said,) = mmatm('train', 'mask_rcn_atmnet_t', code=1, cwd=tmp_path).strip().splitlines()
    assert 'did you mean mask_rcnn_atmnet_t' in said


def test_configs_lists_every_config():
    assert mmatm('configs', '*').count('.py') == len(model_names()) > 35
    assert 'no packaged config matches' in mmatm('configs', 'x*y', code=2)


@pytest.fixture
def mmcv(tmp_path, monkeypatch):
    """A folder that replaces mmcv's."""
    monkeypatch.setattr(operators, 'mmcv_folder', lambda: tmp_path)
    return tmp_path


def test_operators_are_installed_and_removed(mmcv):
    assert 'in programs that import mmatm' in operators.status()
    assert 'in every program' in operators.install()
    names = {}
    exec((mmcv / '_ext.py').read_text(), names)
    assert names['__getattr__']('nms')
    assert operators.install() == operators.status()
    assert 'in programs that import mmatm' in operators.remove()
    assert not list(mmcv.iterdir())
    assert 'nothing to remove' in operators.remove()


def test_operators_from_the_command_line():
    pytest.importorskip('mmcv')
    assert mmatm('operators').startswith('mmcv uses its compiled operators') or (
        'operators of mmatm in' in mmatm('operators', 'status')
    )
    assert "invalid choice: 'delete'" in mmatm('operators', 'delete', code=2)


def test_operators_that_cannot_be_installed_are_one_sentence(mmcv, monkeypatch):
    from mmatm.cli.operators import main

    (mmcv / '_ext.py').write_text('nms = None\n')
    monkeypatch.setattr('sys.argv', ['operators', 'install'])
    with pytest.raises(SystemExit, match='was not written by mmatm'):
        main()


def test_mim_finds_the_package(tmp_path, monkeypatch, capsys):
    from mmatm.cli.mim import main

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'mim', None)
        with pytest.raises(SystemExit, match='mim is not installed'):
            main()
    # Like mim, whose commands import the function by name.
    (tmp_path / 'mim').mkdir()
    for name, code in {
        '__init__': '',
        'utils': 'def get_installed_path(package):\n    return f"/there/{package}"\n',
        'cli': (
            'from mim.utils import get_installed_path\n'
            'def cli(prog_name):\n'
            '    print(prog_name, *map(get_installed_path, ("mmatm", "mmdet")))\n'
        ),
    }.items():
        (tmp_path / 'mim' / f'{name}.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    main()
    for name in ('mim', 'mim.utils', 'mim.cli'):
        monkeypatch.delitem(sys.modules, name)
    assert capsys.readouterr().out.strip() == f'mmatm mim {ROOT / "mmatm"} /there/mmdet'


def test_other_files_are_never_replaced(mmcv):
    (mmcv / '_ext.py').write_text('nms = None\n')
    with pytest.raises(FileExistsError):
        operators.install()
    (mmcv / '_ext.cpython-311-x86_64-linux-gnu.so').touch()
    assert 'nothing to do' in operators.install()
    assert 'nothing to remove' in operators.remove()
    assert (mmcv / '_ext.py').read_text() == 'nms = None\n'
    assert len(list(mmcv.iterdir())) == 2
