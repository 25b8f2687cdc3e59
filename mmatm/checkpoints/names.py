"""Tensor names in the three checkpoint layouts, and their translation.

A tensor has up to three names: the published one, timm's (:class:`mmatm.models.ATMNetClassifier`)
and mm's (:class:`mmatm.models.ATMNet`, inside a detector, segmentor or classifier). All names are
translated to mm's. The only LayerNorm of a classifier is ``norm3`` of the backbone there.
"""

import re
from collections.abc import Iterable, Sequence

BACKBONE = 'backbone.'
HEAD = 'head.fc.'  # mmpretrain's LinearClsHead

# Prefixes of published names and of mm's names. {i} is a stage, {j} a block.
_TRUNK_NAMES = [
    ('patch_embed.proj.', 'stem.'),
    ('pos_blocks.{i}.proj.', 'stages.{i}.peg.'),
    ('blocks.{i}.{j}.offset_layer.', 'stages.{i}.blocks.{j}.offset.'),
    ('blocks.{i}.{j}.atm.atm_w.', 'stages.{i}.blocks.{j}.mixer.width.'),
    ('blocks.{i}.{j}.atm.atm_h.', 'stages.{i}.blocks.{j}.mixer.height.'),
    ('blocks.{i}.{j}.atm.atm_c.', 'stages.{i}.blocks.{j}.mixer.channel.'),
    ('blocks.{i}.{j}.atm.fusion.', 'stages.{i}.blocks.{j}.mixer.gate.'),
    ('blocks.{i}.{j}.atm.proj.', 'stages.{i}.blocks.{j}.mixer.proj.'),
    ('blocks.{i}.{j}.norm1.', 'stages.{i}.blocks.{j}.norm1.'),
    ('blocks.{i}.{j}.norm2.', 'stages.{i}.blocks.{j}.norm2.'),
    ('blocks.{i}.{j}.mlp.', 'stages.{i}.blocks.{j}.mlp.'),
    ('norm_{i}.', 'norm{i}.'),
]
# The same for a classifier, where the published code and timm use the same names.
_CLASSIFIER_NAMES = [('norm.', 'norm3.'), ('head.', HEAD)]
_OUTPUT_NORM = re.compile(r'norm\d\.')
# A tensor that every ATMNet has, and no other model.
_MIXER = re.compile(
    r'(backbone\.)?(blocks\.0\.0\.atm\.atm_w|stages\.0\.blocks\.0\.mixer\.width)\.weight'
)


def _compile(source: str, target: str) -> tuple[re.Pattern, str]:
    pattern = re.sub(r'\\{(\w)\\}', r'(?P<\1>\\d+)', re.escape(source))
    return re.compile(pattern), re.sub(r'{(\w)}', r'\\g<\1>', target)


_TO_MM = [_compile(theirs, mms) for theirs, mms in _TRUNK_NAMES + _CLASSIFIER_NAMES]
_TRUNK_TO_PUBLISHED = [_compile(mms, theirs) for theirs, mms in _TRUNK_NAMES]
_CLASSIFIER_FROM_MM = [_compile(mms, theirs) for theirs, mms in _CLASSIFIER_NAMES]
# Published as part of the previous stage's last block; in mm, part of the stage that it leads to.
_PUBLISHED_DOWNSAMPLE = re.compile(r'blocks\.(\d+)\.\d+\.downsample\.proj\.')
_DOWNSAMPLE = re.compile(r'stages\.(\d+)\.downsample\.')


class CheckpointError(RuntimeError):
    """The checkpoint cannot be read safely or does not fit the model."""


def is_atmnet(names: Iterable[str]) -> bool:
    """Whether these are the tensor names of an ATMNet, in any layout."""
    return any(_MIXER.fullmatch(name) for name in names)


def is_whole_mm_model(names: Iterable[str]) -> bool:
    """Whether these are the tensor names of a detector, segmentor or mm classifier."""
    return any(name.startswith(BACKBONE) for name in names)


def is_output_norm(name: str) -> bool:
    """Whether ``name``, in mm's layout, belongs to one of the four output norms."""
    return bool(_OUTPUT_NORM.match(name))


def translate_name(name: str) -> str:
    """Translate a published or timm name to mm's; return other names unchanged.

    The result has no prefix ``backbone.``. The head is named as in mmpretrain: ``head.fc.weight``.
    """
    if name.startswith(HEAD):
        return name
    if match := _PUBLISHED_DOWNSAMPLE.match(name):
        return f'stages.{int(match[1]) + 1}.downsample.{name[match.end() :]}'
    return _rename(name, _TO_MM)


def common_name(name: str) -> str:
    """:func:`translate_name` of ``name``, which may begin with ``backbone.``."""
    return translate_name(name.removeprefix(BACKBONE))


def timm_name(name: str) -> str:
    """Translate mm's name to timm's; the inverse of :func:`translate_name`."""
    return _rename(name, _CLASSIFIER_FROM_MM)


def published_name(name: str, depths: Sequence[int], classifier: bool) -> str:
    """Translate mm's name to the published one; the inverse of :func:`translate_name`.

    Args:
        name: mm's name, without ``backbone.``.
        depths: blocks per stage.
        classifier: whether the model is a classifier rather than a backbone.
    """
    if match := _DOWNSAMPLE.match(name):
        stage = int(match[1]) - 1
        return f'blocks.{stage}.{depths[stage] - 1}.downsample.proj.{name[match.end() :]}'
    return _rename(name, (_CLASSIFIER_FROM_MM if classifier else []) + _TRUNK_TO_PUBLISHED)


def _rename(name: str, table: Iterable[tuple[re.Pattern, str]]) -> str:
    for pattern, replacement in table:
        if match := pattern.match(name):
            return match.expand(replacement) + name[match.end() :]
    return name


def select_names(names: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """Map each of ``names`` to the name in ``wanted`` that denotes the same tensor.

    Both may be in any layout. Names without a counterpart are left out. The neck and heads of a
    whole mm model are never selected, except for the head of a classifier.

    Raises:
        CheckpointError: two of ``names`` denote the same tensor in different layouts.
    """
    own = {translate_name(name): name for name in wanted}
    names = list(names)
    if is_whole_mm_model(names):
        names = [name for name in names if name.startswith((BACKBONE, HEAD))]
    return {name: own[common] for name, common in translate(names).items() if common in own}


def translate(names: Iterable[str]) -> dict[str, str]:
    """Map each of ``names`` to mm's name.

    Raises:
        CheckpointError: two of ``names`` denote the same tensor in different layouts.
    """
    translated: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name in names:
        translated[name] = own = common_name(name)
        if owners.setdefault(own, name) != name:
            raise CheckpointError(
                f'the checkpoint holds {own} twice, in two layouts: as {owners[own]} and as {name}'
            )
    return translated
