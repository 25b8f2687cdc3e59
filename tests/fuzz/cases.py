"""The number of cases: 200 in total in ``make test``; ``make fuzz`` sets MMATM_FUZZ for more."""

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get('MMATM_FUZZ', '1'))


def cases(number: int) -> settings:
    """``number`` cases, the same in every run; with MMATM_FUZZ=10 ten times as many new ones."""
    return settings(
        max_examples=number * FACTOR,
        deadline=None,
        derandomize=FACTOR == 1,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def rejected(error: Exception, *parts: object) -> None:
    """Check that an error has a message that names ``parts``."""
    assert str(error)
    assert all(str(part) in str(error) for part in parts)
