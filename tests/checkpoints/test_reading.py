"""Checkpoints at URLs: downloaded once, by one process of a job."""

import argparse
import http.server
import threading
from functools import partial

import pytest
import torch

from commands import run_pair
from mmatm.checkpoints import CheckpointError, read_checkpoint
from mmatm.models import ATMNet
from reference import published_state_dict


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without logging, and records the requests."""

    requests: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.requests.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The URL of a folder with ``xt.pth``; torch's hub folder is elsewhere."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    folder = tmp_path / 'web'
    folder.mkdir()
    torch.save({'model': published_state_dict('xt', head=True)}, folder / 'xt.pth')
    (folder / 'damaged.pth').write_bytes((folder / 'xt.pth').read_bytes()[:9999])
    serving = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), partial(Handler, directory=str(folder))
    )
    Handler.requests.clear()
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{serving.server_address[1]}'
    serving.shutdown()
    serving.server_close()


def test_downloaded_once(server):
    address = f'{server}/xt.pth'
    for _ in range(2):
        model = ATMNet('xt', init_cfg=dict(type='Pretrained', checkpoint=address))
        model.init_weights()
    expected = published_state_dict('xt', head=True)['patch_embed.proj.weight']
    assert torch.equal(model.stem.weight, expected)
    assert Handler.requests == ['/xt.pth']


@pytest.mark.parametrize(
    ('name', 'said'), [('none.pth', 'cannot be downloaded'), ('damaged.pth', 'is damaged')]
)
def test_missing_or_damaged_files(server, name, said):
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(f'{server}/{name}')


JOB = """
import os, sys, torch
from datetime import timedelta
torch.distributed.init_process_group('gloo', timeout=timedelta(seconds=60))
import mmatm
from mmatm.checkpoints import CheckpointError
from mmatm.checkpoints.loading import load_from_any
try:
    load_from_any(sys.argv[1])
    print('loaded')
except CheckpointError as error:
    print('rejected')
"""


@pytest.mark.parametrize(('name', 'outcome'), [('xt.pth', 'loaded'), ('none.pth', 'rejected')])
def test_two_processes(server, name, outcome, tmp_path):
    script = tmp_path / 'job.py'
    script.write_text(JOB)
    for printed in run_pair(script, f'{server}/{name}'):
        assert printed.split()[-1] == outcome
    if outcome == 'loaded':
        assert Handler.requests == ['/xt.pth']


class Attribute:
    """Pickled as a call of getattr, which only a log of mmengine may contain."""

    def __reduce__(self):
        return getattr, (argparse.Namespace, '__init__')


def test_getattr_of_anything_else_is_rejected(tmp_path):
    torch.save({'a': Attribute()}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='could execute code'):
        read_checkpoint(tmp_path / 'x.pth')
