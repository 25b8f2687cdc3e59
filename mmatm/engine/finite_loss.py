"""Stop training when the loss is not finite."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop at the first NaN or infinite loss, before it reaches a checkpoint or a log.

    Raises:
        FloatingPointError: a loss is not finite. The message names the iteration, the loss terms
            and their values.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Check the losses of this iteration; the sum is named only if all its terms are finite."""
        losses = {
            k: torch.as_tensor(v).detach().item() for k, v in (outputs or {}).items() if 'loss' in k
        }
        total = losses.pop('loss', 0.0)
        bad = {k: v for k, v in losses.items() if not _finite(v)}
        if not bad and not _finite(total):
            bad = {'loss': total}
        if bad:
            terms = ', '.join(f'{name} is {value}' for name, value in bad.items())
            raise FloatingPointError(
                f'training stopped at iteration {runner.iter + 1}: {terms}; try a lower learning '
                'rate, a longer warm-up or gradient clipping, and resume from the last checkpoint'
            )


def _finite(value: float) -> bool:
    return abs(value) < float('inf')  # false for NaN as well
