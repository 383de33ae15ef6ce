"""Computes the log-probs of the reference once, before training, and has the loaders put them into the batches."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from lightning import LightningModule, Trainer

from lightning_dpo.callbacks.reference_passes import ReferencePasses, fill
from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.data.steps.completions import Completions
from lightning_dpo.errors import UserError
from lightning_dpo.models.digests import cache_folder
from lightning_dpo.models.reference import NotHeld
from lightning_dpo.models.reference_cache import ReferenceCache, ReferenceTable
from lightning_dpo.models.reference_factories import StaticReference
from lightning_dpo.models.sharding import is_sharded
from lightning_dpo.training.model_hooks import ModelCallback
from lightning_dpo.training.policy_module import PolicyModule
from lightning_dpo.training.trainer_attributes import datamodule_of

log = logging.getLogger(__name__)

_WAIT = 30.0  # seconds between two messages of a process that waits for another one


class ReferenceScores(ModelCallback):
    """Fills the cache of a `StaticReference`, for the pairs of a `PreferenceDataModule`.

    `DPOModule.configure_callbacks` adds this callback. It runs before a checkpoint is loaded, while the policy equals
    the reference, so that no copy of the policy is needed. With several devices, each computes a part.
    """

    def on_model_opened(self, trainer: Trainer, pl_module: PolicyModule) -> None:
        """Fill the cache, and use it for the batches of this run.

        Raises:
            UserError: Cached log-probs are not those of the reference.
        """
        data = datamodule_of(trainer)
        if not isinstance(data, PreferenceDataModule):
            return
        data.reference_logps = None  # of an earlier module
        options = pl_module.make_reference
        if pl_module.reference is None or not isinstance(options, StaticReference) or options.cache == "off":
            return
        if trainer.precision == "64-true":
            _check_unused(options)
            return
        folder = Path(options.cache_dir or cache_folder("reference"))
        # With bf16-mixed, FSDP computes everything in bf16, and not only matrix products.
        how = (
            "bf16-sharded" if trainer.precision == "bf16-mixed" and is_sharded(pl_module.policy) else trainer.precision
        )
        cache = ReferenceCache(folder, pl_module.scored_with | {"precision": str(how)})
        parts = [Completions(tokens, data.chosen_only) for tokens in data.pairs_read(trainer)]
        if not parts:
            return
        scoring = ReferencePasses(trainer, pl_module, data)
        table = _filled(cache, parts, scoring)
        if options.recheck and (pl_module.untouched or pl_module.reference.answers):
            scoring.check(table, options.recheck, cache.folder)
        data.reference_logps = table
        if not options.answers and pl_module.reference.model is not None:  # only the log-probs are needed from here on
            pl_module.hold_reference(NotHeld(pl_module.reference.starts_equal))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the log-probs from the data module, which may be used with another reference."""
        data = datamodule_of(trainer)
        if isinstance(data, PreferenceDataModule):
            data.reference_logps = None


def _check_unused(options: StaticReference) -> None:
    """Check that no option needs the cache, which does not exist in float64."""
    given = {"cache_dir": options.cache_dir, "between": None if options.between == "device" else options.between}
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"reference.{name}={value} has no effect with trainer.precision=64-true: cached log-probs have float32"
            )


def _filled(cache: ReferenceCache, parts: Sequence[Completions], scoring: ReferencePasses) -> ReferenceTable:
    """The cache with the log-probs of all completions. A collective call."""
    table = cache.read()
    if scoring.nowhere(_lacks(table, parts)):
        return table
    with _locked(cache, scoring.trainer):
        table = cache.read()  # another process may have added them
        if scoring.nowhere(_lacks(table, parts)):
            return table
        if scoring.trainer.is_global_zero:
            cache.create()
        fill(cache, table, parts, scoring)
        scoring.trainer.strategy.barrier()
    table = cache.read()
    if not scoring.nowhere(_lacks(table, parts)):
        raise UserError(
            f"{cache.folder} does not have the log-probs that another device has written: set reference.cache_dir to a "
            "folder that all nodes share"
        )
    return table


def _lacks(table: ReferenceTable, parts: Sequence[Completions]) -> bool:
    return any(table.missing(part.keys).any() for part in parts)


@contextmanager
def _locked(cache: ReferenceCache, trainer: Trainer) -> Iterator[None]:
    """Context that only one run is in. The first rank takes the lock; the others wait for it in short turns.

    A single wait could exceed the timeout of collective calls.
    """
    lock, first, since = FileLock(cache.lock), trainer.is_global_zero, time.monotonic()
    while True:
        acquired = not first
        if first:
            try:
                cache.folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=_WAIT)
                acquired = True
            except Timeout:
                waited = time.monotonic() - since
                log.info("Another process computes reference log-probs; waiting for it since %.0f s.", waited)
        if trainer.strategy.broadcast(acquired):
            break
    try:
        yield
    finally:
        lock.release()
