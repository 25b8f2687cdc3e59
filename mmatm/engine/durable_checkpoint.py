"""Checkpoints for runs that may be killed at any moment."""

import os
import re
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checkpoints import CheckpointError, read_checkpoint
from ..utils.files import PART, checksum_path, write_atomically, write_with_checksum
from ..utils.messages import shorten

BACKEND = 'mmatm_durable'
LAST = 'last_checkpoint'  # the file in which mmengine stores the path of the newest checkpoint


class DurableBackend(LocalBackend):
    """Local files that are written atomically and removed late.

    :meth:`remove` only marks a file. :meth:`sweep` removes the marked files once their successor is
    safe.
    """

    def __init__(self) -> None:
        self._outdated: list[Path] = []

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write a file and its checksum.

        Raises:
            OSError: the file cannot be written. No part of it remains.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_with_checksum(path, obj)
        except OSError as error:
            raise OSError(
                error.errno,
                f'checkpoint of {len(obj) / 2**20:.1f} MiB was not written: {error.strerror}. The '
                'checkpoints before it are intact: make room, then continue with --resume',
                str(path),
            ) from None

    def remove(self, filepath: str | os.PathLike) -> None:
        self._outdated.append(Path(filepath))

    def sweep(self, keep: set[Path]) -> None:
        """Remove the marked files, except those in ``keep``."""
        for path in self._outdated:
            if path not in keep:
                checksum_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        self._outdated.clear()


register_backend(BACKEND, DurableBackend, force=True)


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for runs that may be killed at any moment.

    - A checkpoint is written atomically, with its checksum next to it. Older ones are removed only
      when it is safe. A full disk stops the run and leaves them intact.
    - ``resume`` without a file takes the newest intact checkpoint. It warns if that is not the last
      one.

    With :class:`.ExactRunner`, a resumed run also trains as if it had never been interrupted.

    Takes the arguments of :class:`mmengine.hooks.CheckpointHook`. With ``backend_args`` or
    ``file_client_args``, that backend handles the files instead.

    Raises:
        CheckpointError: training is resumed, but no checkpoint can be read, or it does not fit.
        OSError: a checkpoint cannot be written.
        ValueError: the evaluation does not measure what ``save_best`` names.
    """

    backend_args: dict[str, Any] | None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._local = self.backend_args is None and self.file_client_args is None
        self._local = self._local and '://' not in str(self.out_dir or '')
        if self._local:
            self.backend_args = dict(backend=BACKEND)

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint that all processes resume from, before mmengine does."""
        if self._local and runner.cfg.get('resume') and not runner.cfg.get('load_from'):
            try:
                if is_main_process():
                    self._repair(runner)
            finally:  # if rank 0 fails, the others must not wait for it
                barrier()
        if self._local:
            self._agree(runner)

    def _agree(self, runner: Runner) -> None:
        """Resume in all processes what rank 0 finds: elsewhere, a shared disk may lag behind."""
        last = Path(runner.work_dir, LAST)
        found = ''
        if runner._resume and not runner._load_from and last.is_file():
            found = last.read_text().strip()
        newest, *others = all_gather_object(found)
        if any(others) if not newest else not Path(newest).is_file():
            raise CheckpointError(
                f'{newest or next(filter(None, others))} is not on all machines: a run can only '
                f'continue on several machines if they share its work directory {runner.work_dir}'
            )
        if newest:
            runner._resume, runner._load_from = True, newest

    def _repair(self, runner: Runner) -> None:
        last = Path(runner.work_dir, LAST)
        newest = Path(last.read_text().strip()) if last.is_file() else Path()
        folder = Path(runner.work_dir)
        if newest.name and newest.parent.is_dir():
            folder = newest.parent
        steps = sorted(self._saved(folder), reverse=True)
        candidates = [self._path(folder, step) for step in steps]
        if newest.name:
            if newest in candidates:  # later ones were never recorded as saved
                candidates = candidates[candidates.index(newest) :]
            else:
                candidates.insert(0, newest)
        reasons: list[str] = []
        for path in candidates:
            try:
                read_checkpoint(path)
            except (CheckpointError, FileNotFoundError) as error:
                reasons.append(str(error))
                continue
            if path != newest:
                why = '; '.join(reasons) or f'{last} names no checkpoint'
                runner.logger.warning(f'{why}: resuming from {path} instead')
                write_atomically(last, str(path).encode())
            return
        if last.is_file() and not newest.name:
            last.unlink()  # it is empty, and there is no checkpoint
        if reasons:
            raise CheckpointError(
                f'nothing in {folder} can be resumed: {"; ".join(reasons)}. Give a checkpoint '
                f'with --resume CHECKPOINT, or remove {last} and start again without --resume'
            )

    def _saved(self, folder: Path) -> list[int]:
        """The steps of all checkpoints in ``folder``, according to ``filename_tmpl``."""
        before, after = self._around()
        names = [path.name for path in folder.glob(f'{before}*{after}')]
        steps = [name[len(before) : len(name) - len(after)] for name in names]
        return [int(step) for step in steps if step.isdecimal()]

    def _around(self) -> tuple[str, str]:
        """What ``filename_tmpl`` has before and after the step, as in ``epoch_{:03}.pth``."""
        before, after = re.split('{.*?}', self.filename_tmpl)
        return before, after

    def _path(self, folder: str | Path, step: int) -> Path:
        return Path(folder, self.filename_tmpl.format(step))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that what is resumed fits: torch crashes if the optimizer's state does not."""
        if not runner._resume or 'meta' not in checkpoint:  # which mmengine misses
            return
        model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
        found = checkpoint['state_dict']
        wrong = [
            f'{name} is {list(found[name].shape)}, expected {list(value.shape)}'
            for name, value in model.state_dict().items()
            if name in found and found[name].shape != value.shape
        ]
        if wrong:
            raise CheckpointError(
                f'the checkpoint to resume from does not fit the config: {shorten(wrong)}. To '
                'start from its weights, pass --cfg-options load_from=FILE instead of --resume'
            )

    def before_train(self, runner: Runner) -> None:
        """Clean up after a kill."""
        super().before_train(runner)
        if not self._local:
            return
        # A run that was moved, or goes on in another folder, leaves the files of the old one alone.
        if path := getattr(self, 'best_ckpt_path', None):
            self.best_ckpt_path = self._here(path)
        for name, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[name] = path and self._here(path)
        if is_main_process():
            name = '*'.join(['', *self._around(), ''])
            for folder, pattern in ((runner.work_dir, LAST), (self.out_dir, name)):
                for part in Path(folder).glob(pattern + PART):
                    part.unlink()
            self._sweep()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save a checkpoint, then record it as the last one, then remove those it replaces."""
        if not self._local:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            kept = [*self.keep_ckpt_ids, step]
            # Includes those to remove: the next run does so if this one is killed first.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
            for outdated in kept[: -self.max_keep_ckpts]:
                self.file_backend.remove(self._path(self.out_dir, outdated))
            self.keep_ckpt_ids.append(step)
        self.last_ckpt = str(self._path(self.out_dir, step))
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_atomically(Path(runner.work_dir, LAST), self.last_ckpt.encode())
            self._sweep()

    def _here(self, path: str) -> str | None:
        """The file of this name in the folder of the checkpoints, if there is one."""
        own = Path(self.out_dir, Path(path).name)
        return str(own) if own.is_file() else None

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        names = [name for name in self.save_best or () if name != 'auto' and name not in metrics]
        if names:
            raise ValueError(
                f'save_best of the checkpoint hook is {shorten(names)}, but the evaluation '
                f'measured {shorten(metrics)}'
            )
        super()._save_best_checkpoint(runner, metrics)
        if self._local and is_main_process():
            self._sweep()

    def _sweep(self) -> None:
        best = [getattr(self, 'best_ckpt_path', None)]
        best += getattr(self, 'best_ckpt_path_dict', {}).values()
        self.file_backend.sweep(keep={Path(p) for p in (self.last_ckpt, *best) if p})
