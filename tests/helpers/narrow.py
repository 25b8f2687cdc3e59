"""Configs of mm with narrow necks and heads, for speed.

Half precision is a hundred times slower than float32 where the processor lacks it.
"""


def narrow(config):
    """Give everything in ``config.model`` but the backbone an eighth of its channels."""
    for part in set(config.model) - {'backbone'}:
        config.model[part] = _narrow(config.model[part])
    if 'DINO' in config.model.type:
        config.model.bbox_head.embed_dims = 32  # its default is that of the published model


def _narrow(value, key=''):
    if isinstance(value, dict):
        return {name: _narrow(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_narrow(each) for each in value]
    widths = (256, 1024, 2048)  # no backbone has these
    return value // 8 if value in widths or key in ('channels', 'num_feats') else value
