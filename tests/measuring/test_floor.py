"""The products of a model alone: all of them, and nothing else."""

import pytest
import torch
from torch import nn

from mmatm.measuring.floor import Product, products_alone, record
from mmatm.measuring.flops import count_products
from mmatm.models import ATMNet

TINY = dict(depths=(2, 2, 2, 2), widths=(8, 12, 16, 24), mlp_ratios=(2, 2, 2, 2),
            shares=(2, 4, 4, 8), interval=2)  # fmt: skip


@pytest.mark.parametrize('size', [(64, 96), (224, 256)])
def test_all_products_are_computed(size):
    torch.manual_seed(0)
    model, image = ATMNet(TINY).eval(), torch.randn(1, 3, *size)
    products, others = count_products(products_alone(model, image, trials=1))
    assert products == count_products(lambda: model(image))[0] > 0
    assert others == 0


def test_equal_products_are_counted():
    layer = nn.Linear(3, 5)
    products = record(nn.Sequential(layer, nn.Linear(5, 3), layer), torch.randn(7, 3))
    assert products == {Product(7, 3, 5, True): 2, Product(7, 5, 3, True): 1}


def test_candidates_agree():
    torch.manual_seed(0)
    one, other = (way() for way in Product(40, 3, 5, True).candidates().values())
    torch.testing.assert_close(other[0, :, 0].mT, one)
