"""``torch.compile`` for detectors and segmentors, whose images differ in size."""

import inspect
import re
from types import MethodType
from typing import Any

import torch
from torch import nn

from ..utils.compat import ORDERS_SYMBOLS

_NETWORK = re.compile(r'(^|\.)(backbone|neck|\w*head)(\.\d+)?$')


def compile_networks(model: nn.Module, **options: Any) -> list[str]:
    """Compile the networks in a model of mm: backbone, neck, and the layers of each head.

    The rest stays eager: preprocessing, matching, losses and NMS depend on the number and size of
    the objects, so that compiling a whole ``train_step`` compiles them anew for each batch.

    Args:
        model: A detector, a segmentor or a classifier.
        options: Arguments of ``torch.compile``. ``dynamic`` is True by default where torch compiles
            a network once for all image sizes, that is from torch 2.15 on.

    Returns:
        The names of the compiled modules.
    """
    if ORDERS_SYMBOLS:
        options.setdefault('dynamic', True)
    networks = {name: module for name, module in model.named_modules() if _is_network(name, module)}
    for module in networks.values():
        # Not module.compile(), since heads call forward() themselves. A method, which a copy of the
        # module binds to itself.
        module.forward = MethodType(torch.compile(module.forward.__func__, **options), module)
    return list(networks)


def _is_network(name: str, module: nn.Module) -> bool:
    """Whether a module maps tensors to tensors, and contains no other such module."""
    if not _NETWORK.search(name) or isinstance(module, nn.ModuleList):
        return False
    takes_annotations = 'data_samples' in str(inspect.signature(module.forward))
    holds_heads = any(_NETWORK.search(child) for child, _ in module.named_children())
    return not takes_annotations and not holds_heads
