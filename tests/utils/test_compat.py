"""The replacements for newer functions of torch, also with releases that do not need them."""

import pickle

import pytest
import torch
from torch import serialization

from mmatm.utils import compat


class Allowed:
    pass


class Rejected:
    pass


@pytest.fixture
def old_torch(monkeypatch):
    """Make torch look older than 2.6, with the restricted unpickler of that time."""
    monkeypatch.delattr(serialization, 'get_unsafe_globals_in_checkpoint', raising=False)
    if not hasattr(serialization, '_weights_only_unpickler'):
        pytest.skip(f'torch {torch.__version__} has no restricted unpickler')


def load(file, allowed):
    """As torch 2.1 reads the pickle inside a checkpoint."""
    with compat.safe_globals(allowed):
        return serialization._weights_only_unpickler.load(file)


def test_old_torch_refers_to_nothing_but_what_is_allowed(old_torch, tmp_path):
    before = serialization._weights_only_unpickler
    file = tmp_path / 'file.pkl'
    for content in (Allowed(), b'bytes', torch.float32):
        file.write_bytes(pickle.dumps(content, protocol=2))
        with file.open('rb') as opened:
            assert type(load(opened, [Allowed])) is type(content)
    for content in (Rejected(), print, pickle.loads):
        file.write_bytes(pickle.dumps(content, protocol=2))
        with file.open('rb') as opened, pytest.raises(pickle.UnpicklingError, match='GLOBAL'):
            load(opened, [Allowed])
    assert serialization._weights_only_unpickler is before


def test_old_torch_renames(old_torch, tmp_path):
    file = tmp_path / 'file.pkl'
    file.write_bytes(b'c__main__\nSomething\n.')
    with file.open('rb') as opened:
        assert load(opened, [(Allowed, '__main__.Something')]) is Allowed


def test_safe_globals_of_this_torch(tmp_path):
    file = tmp_path / 'file.pth'
    torch.save({'weight': torch.ones(2), 'extra': Allowed()}, file)
    with pytest.raises(pickle.UnpicklingError), compat.safe_globals([]):
        torch.load(file, weights_only=True)
    with compat.safe_globals([Allowed]):
        assert torch.load(file, weights_only=True)['weight'].tolist() == [1, 1]


def test_compiling_and_autocast(monkeypatch):
    assert not compat.is_compiling()
    assert not compat.is_cpu_autocast_enabled()
    with torch.autocast('cpu', torch.bfloat16):
        assert compat.is_cpu_autocast_enabled()

        def takes_nothing():
            return False

        monkeypatch.setattr(torch, 'is_autocast_enabled', takes_nothing)
        assert compat.is_cpu_autocast_enabled()
