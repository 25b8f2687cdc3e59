"""Import this to leave out what takes longer than a small run, and what no test is about.

That is the layout of printed and stored configs, reading the metafiles of all models of mmdet for
every config that inherits from it, and a search for garbage per dataset.
"""

from contextlib import suppress
from functools import cache
from types import SimpleNamespace

from mmengine.config import Config, config, utils
from mmengine.dataset import base_dataset
from yapf.yapflib import yapf_api

for module in (config, yapf_api):  # OneDL's mmengine imports it when it is used
    module.FormatCode = lambda text, **_: (text, True)
base_dataset.gc = SimpleNamespace(collect=lambda: None)
utils.load = cache(utils.load)
with suppress(ModuleNotFoundError):  # fills the cache, for processes that are forked from here
    Config._get_cfg_path('mmdet::_base_/default_runtime.py', '')
