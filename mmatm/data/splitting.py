"""Which images are trained on and which are evaluated on."""

import random
from collections.abc import Mapping, Sequence

from .formats import Sample
from .problems import DataError

Splits = dict[str, list[Sample]]


def choose_splits(
    found: Mapping[str, list[Sample]],
    chosen: Mapping[str, str | None],
    share: float = 0.2,
    seed: int = 0,
) -> tuple[Splits, list[tuple[str, str]]]:
    """Return the samples for ``train``, ``val`` and ``test``, and why they were chosen.

    Args:
        found: samples of each split of the data set.
        chosen: split that the user wants for ``train``, ``val`` and ``test``; None to choose here.
        share: of the images, if validation images have to be split off.
        seed: of that split.

    Raises:
        DataError: a split does not exist or is empty, an image is in two of them, or it is not
            clear which split is for what. The message names the flag.
    """
    found = {name: samples for name, samples in found.items() if samples}
    names = dict(chosen)
    for purpose, name in names.items():
        if name is not None and name not in found:
            raise DataError(f'--{purpose} {name}: the splits are {", ".join(found) or "empty"}')
    if not found:
        raise DataError('no image can be used')
    whole = names['train'] is names['val'] is None and {'trainval', 'test'} <= set(found)
    free = [name for name in found if name not in names.values()]
    if names['train'] is None:
        preferred = ['trainval'] * whole + ['train', 'trainval']
        names['train'] = next((name for name in preferred if name in free), None)
        if names['train'] is None and len(free) == 1:
            names['train'] = free[0]
        if names['train'] is None:
            raise DataError(f'say which split is for training by --train: {", ".join(found)}')
    for purpose in ('val', 'test'):
        if names[purpose] is None:
            order = [purpose, *({'val', 'test'} - {purpose})]
            order = ['test'] if whole else order
            names[purpose] = next((n for n in order if n in found and n != names['train']), None)
    assert names['train'] is not None
    why = [('splits', ', '.join(f'{purpose}: {name}' for purpose, name in names.items() if name))]
    if whole:
        why[0] = ('splits', 'trained on trainval and evaluated on test, as is usual for VOC')
    train = found[names['train']]
    if names['val'] is None:
        held_out = stratified([sample.present for sample in train], share, seed)
        val = [sample for at, sample in enumerate(train) if at in held_out]
        train = [sample for at, sample in enumerate(train) if at not in held_out]
        what = f'{len(val)} of {len(val) + len(train)} images, by class, with seed {seed}'
        why = [('splits', f'there was one split; val is {what}')]
    else:
        val = found[names['val']]
    test = found[names['test']] if names['test'] else val
    for purpose, samples in (('val', val), ('test', test)):
        both = {sample.image for sample in samples} & {sample.image for sample in train}
        if both:
            raise DataError(
                f'{len(both)} images are in train and in {purpose}, such as {min(both)}: choose '
                f'other splits by --train, --val and --test'
            )
    return {'train': train, 'val': val, 'test': test}, why


def stratified(present: Sequence[set[int]], share: float, seed: int) -> set[int]:
    """Choose about ``share`` of the images, of each class too, and return their positions.

    Classes are served from the rarest on. Of a class on two images or more, one stays in either
    part where that is possible.

    Args:
        present: the classes on each image.
        share: between 0 and 1.
        seed: the same seed chooses the same images.

    Raises:
        DataError: there are fewer than two images.
    """
    if len(present) < 2:
        raise DataError(f'{len(present)} image cannot be split into training and validation')
    order = list(range(len(present)))
    random.Random(seed).shuffle(order)
    members: dict[int, list[int]] = {}
    for at in order:
        for label in present[at]:
            members.setdefault(label, []).append(at)
    groups = sorted(members.values(), key=len)
    groups.append(order)
    chosen: set[int] = set()
    done: set[int] = set()
    for group in groups:
        wanted = round(share * len(group))
        if len(group) > 1:
            wanted = min(max(wanted, 1), len(group) - 1)
        wanted -= len(chosen & set(group))
        free = [at for at in group if at not in done]
        chosen.update(free[: max(wanted, 0)])
        done.update(group)
    if len(chosen) == len(present):
        chosen.remove(order[0])
    return chosen
