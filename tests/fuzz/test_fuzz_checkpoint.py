"""Damaged checkpoint files: rejected with CheckpointError, or read bitwise correctly."""

import argparse
import os
import tempfile
from pathlib import Path

import pytest
import torch
from fuzz.cases import cases, rejected
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer

from mmatm.checkpoints import CheckpointError, read_checkpoint
from mmatm.models import ATMNet
from mmatm.utils.files import write_with_checksum
from reference import identical

ARCH = dict(
    depths=(2, 2, 2, 2), widths=(8, 8, 8, 8), mlp_ratios=(1, 1, 1, 1), shares=(2, 2, 2, 2),
    interval=2,
)  # fmt: skip


class Code:
    """Unpickling this leaves a mark."""

    def __reduce__(self):
        return os.putenv, ('MMATM_EXECUTED', '1')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Valid files in each of torch's formats, what they hold, and a folder for damaged copies."""
    torch.manual_seed(0)
    state = ATMNet(ARCH).state_dict()
    content = {
        'meta': {'epoch': 3, 'seed': 2**40, 'CLASSES': ('a', 'b'), 'args': argparse.Namespace()},
        'state_dict': state,
        'optimizer': {'state': {0: {'step': torch.tensor(3.0)}}, 'param_groups': [{'lr': 1e-4}]},
        'message_hub': {'log_scalars': {'loss': HistoryBuffer([1.0, 0.5], [1, 1])}},
    }
    folder = tmp_path_factory.mktemp('fuzz')
    torch.save(content, folder / 'zip.pth')
    torch.save(content, folder / 'legacy.pth', _use_new_zipfile_serialization=False)
    expected = read_checkpoint(folder / 'zip.pth')
    return {kind: (folder / f'{kind}.pth').read_bytes() for kind in ('zip', 'legacy')}, expected


@st.composite
def damages(draw):
    """A function that damages bytes: it cuts them, flips bits, zeroes or inserts parts."""
    kind = draw(st.sampled_from(['cut', 'flip', 'flip', 'flip', 'zero', 'insert', 'none']))
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4))
    from_end = draw(st.booleans())  # where zip archives keep their directory
    bit, length = draw(st.integers(0, 7)), draw(st.integers(1, 600))

    def spoil(content):
        content = bytearray(content)
        span = min(len(content), 4000) if from_end else len(content)
        positions = [len(content) - span + int(place * span) for place in places]
        if kind == 'cut':
            return bytes(content[: positions[0]])
        for position in positions if kind != 'none' else ():
            if kind == 'flip':
                content[position] ^= 1 << bit
            elif kind == 'zero':
                content[position : position + length] = bytes(len(content[position:][:length]))
            else:
                content[position:position] = bytes([bit] * length)
        return bytes(content)

    return spoil


def without_history(checkpoint):
    """HistoryBuffer has no equality of its own."""
    return {key: value for key, value in checkpoint.items() if key != 'message_hub'}


@given(damages(), st.sampled_from([('zip', False), ('zip', True), ('legacy', True)]))
@cases(45)
def test_damaged_file_is_rejected_or_read_correctly(files, spoil, kind):
    contents, expected = files
    format, with_checksum = kind
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'checkpoint.pth')
        write_with_checksum(path, contents[format])
        if not with_checksum:
            Path(folder, 'checkpoint.pth.sha256').unlink()
        path.write_bytes(spoil(contents[format]))
        try:
            found = read_checkpoint(path)
        except CheckpointError as error:
            rejected(error, path)
            return
    assert identical(without_history(found), without_history(expected))


@given(damages())
@cases(15)
def test_damaged_legacy_file_without_checksum_never_runs_code(files, spoil):
    """Its weights cannot be verified, but it must neither crash nor execute anything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'checkpoint.pth')
        torch.save({'state_dict': {'x': torch.ones(3)}, 'code': Code()}, path,
                   _use_new_zipfile_serialization=False)  # fmt: skip
        path.write_bytes(spoil(path.read_bytes()))
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            rejected(error, path)
    assert 'MMATM_EXECUTED' not in os.environ


VALUES = st.one_of(
    st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2),
    st.sampled_from([torch.zeros(0), torch.zeros(()), torch.zeros(8, 3, 7), torch.zeros(3, 8, 7, 7),
                     torch.zeros(8, dtype=torch.int64), torch.zeros(8, device='meta'),
                     torch.ones(8).to_sparse(), torch.ones(8, dtype=torch.complex64),
                     torch.quantize_per_tensor(torch.ones(8), 0.1, 0, torch.qint8)]),
)  # fmt: skip
NAMES = st.sampled_from(
    [*ATMNet(ARCH).state_dict(), 'blocks.0.0.norm1.weight', 'head.weight', '']
) | (st.text(max_size=5))


@given(st.lists(st.tuples(st.sampled_from(['remove', 'set', 'move']), NAMES, VALUES), max_size=3),
       st.sampled_from(['', 'backbone.']))  # fmt: skip
@example([('set', 'stem.bias', torch.zeros(8, dtype=torch.int64))], '')
@example([('set', 'stem.bias', torch.zeros(8, device='meta'))], '')
@example([('set', 'stem.bias', torch.ones(8).to_sparse())], '')
@example([('set', 'blocks.0.0.norm1.weight', torch.zeros(8))], '')  # the second of that name
@cases(25)
def test_wrong_content_is_rejected_and_leaves_the_model(changes, prefix):
    model = ATMNet(ARCH)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {prefix + name: value + 1 for name, value in before.items()}
    for how, name, value in changes:
        if how == 'set':
            state[prefix + name] = value
        elif how == 'remove':
            state.pop(prefix + name, None)
        elif prefix + name in state:
            state['x' + name] = state.pop(prefix + name)
    given_state = dict(state)
    try:
        model.load_state_dict(state, strict=False)
    except CheckpointError:
        assert identical(dict(model.state_dict()), before)
        return
    for name, value in model.state_dict().items():
        wanted = given_state.get(prefix + name, before[name])  # output norms may be absent
        assert torch.equal(value, wanted.to(value.dtype)), name
