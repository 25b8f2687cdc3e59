"""Which images are held out."""

import random

import pytest

from mmatm.data import DataError
from mmatm.data.splitting import stratified


def test_every_class_is_in_both_parts():
    draw = random.Random(0)
    present = [{0} | ({1} if draw.random() < 0.3 else set()) for _ in range(100)]
    present[17] = present[71] = {2}
    chosen = stratified(present, 0.2, seed=0)
    assert 15 <= len(chosen) <= 25
    for label in range(3):
        members = [at for at, labels in enumerate(present) if label in labels]
        held_out = len(chosen & set(members))
        assert held_out == max(1, round(0.2 * len(members))) or label == 0
        assert held_out < len(members)
    assert chosen == stratified(present, 0.2, seed=0) != stratified(present, 0.2, seed=1)


def test_few_images():
    assert len(stratified([{0}, set()], 0.01, seed=0)) == 1
    assert len(stratified([set(), set(), set()], 0.99, seed=0)) == 2
    assert len(stratified([{0}, {1}], 0.99, seed=0)) == 1
    with pytest.raises(DataError, match='cannot be split'):
        stratified([{0}], 0.5, seed=0)
