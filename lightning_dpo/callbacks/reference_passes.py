"""Forward passes of the reference: over the completions that its cache lacks, and over pairs to check it."""

import logging
import random
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from lightning import Trainer
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.checkpoints.identity import REFERENCE
from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.data.steps.completions import Completions
from lightning_dpo.data.steps.loader import MicroBatches
from lightning_dpo.data.steps.sampler import MicroBatchRows
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout, PaddedLayout, SharedLayout
from lightning_dpo.logps.completions import completion_logps, summed, token_logps
from lightning_dpo.logps.tolerance import tolerance
from lightning_dpo.models.facts import STARTING
from lightning_dpo.models.preparation import evaluating
from lightning_dpo.models.reference import Reference, WithinPolicy
from lightning_dpo.models.reference_cache import ReferenceCache, ReferenceTable
from lightning_dpo.models.sharding import is_sharded
from lightning_dpo.training.policy_module import PolicyModule

_T = TypeVar("_T")

log = logging.getLogger(__name__)

_TOKENS = 4096  # in a forward pass, unless a single pair has more
_SECONDS = 60.0  # of computation in a shard, which is what a kill can lose


class ReferencePasses:
    """Forward passes of the reference on the devices of the Trainer."""

    def __init__(self, trainer: Trainer, module: PolicyModule, data: PreferenceDataModule) -> None:
        self.trainer, self.module, self.data = trainer, module, data
        self.quiet = not trainer.is_global_zero
        shared, end = data.layout_name == "shared", data.tokenizer.eos_token_id
        self.layout: tuple[Layout, bool] = (
            SharedLayout(chosen_only=True) if shared else PaddedLayout(end, chosen_only=True),
            shared,
        )

    @cached_property
    def max_tokens(self) -> int:
        """Maximum number of tokens in a forward pass."""
        return max(_TOKENS, self.data.largest_batch(1)[0])

    def nowhere(self, here: bool) -> bool:
        """Whether a condition holds on no device. A collective call."""
        return self.trainer.strategy.reduce_boolean_decision(not here)

    def share(self, work: list[_T]) -> tuple[list[_T], int]:
        """The work of this device, and how much of it is not a repetition: sharded weights need all devices."""
        rank, devices = self.trainer.global_rank, self.trainer.world_size
        mine = work[rank::devices]
        turns = -(-len(work) // devices)
        return mine + work[:1] * (turns - len(mine)), len(mine)

    def logps(self, model: PreTrainedModel, batch: PreferenceBatch) -> list[Tensor]:
        """Log-probs of the scored tokens of each completion, in the order of the pairs, on the CPU."""
        values = token_logps(model, batch.to(self.trainer.strategy.root_device)).logps.cpu()
        of_completion = values.split(batch.completion_lengths.long().tolist())
        return [of_completion[index].clone() for index in batch.chosen.tolist()]

    def check(self, table: ReferenceTable, count: int, folder: Path) -> None:
        """Compare the log-probs of `count` random pairs in the cache `folder` with those of the reference.

        Raises:
            UserError: They differ by more than rounding.
        """
        tokens = self.data.pairs_read(self.trainer)[-1]
        rows = sorted(random.Random(0).sample(range(len(tokens)), min(count, len(tokens))))
        pairs = MicroBatches(tokens, table, self.data.chosen_only)[
            MicroBatchRows(rows, [True] * len(rows), len(rows), 1)
        ]
        batch = self.data.collate(pairs).to(self.trainer.strategy.root_device)
        cached = summed(cast(Tensor, batch.reference_logps), batch)
        with self.reference() as model:
            found = completion_logps(model, batch)
        difference = (found.sums - cached.sums).abs()
        allowed = found.lengths.sqrt() * tolerance(str(self.trainer.precision), self.module.policy.dtype)
        if (difference <= allowed).all():
            return
        worst = int((difference / allowed).nan_to_num(torch.inf).argmax())
        raise UserError(
            f"{folder} has a log-prob of {cached.sums[worst]:.4f} nats for an answer of {int(found.lengths[worst])} "
            f"tokens, and the reference now computes {found.sums[worst]:.4f}: the model or its libraries have changed; "
            "delete this folder, or set reference.cache=off"
        )

    @contextmanager
    def reference(self) -> Iterator[PreTrainedModel]:
        """Context that returns the reference, or the policy if it still is the reference, without gradient."""
        module, reference = self.module, cast(Reference, self.module.reference)
        is_policy = module.untouched and module.identity.facts["weights"][REFERENCE] == STARTING
        # No copy is needed, and none is moved to the device.
        own = is_policy and not isinstance(reference, WithinPolicy)
        active = as_reference(module.policy) if own else reference.active()
        # FSDP keeps the tensors of a forward pass, which could not be used for training after `inference_mode`.
        no_gradient = torch.no_grad() if is_sharded(module.policy) else torch.inference_mode()
        # Lightning enables autocast only in a step, and creates models in a context with another default device.
        with self.trainer.precision_plugin.forward_context(), torch.device("cpu"), no_gradient, active as model:
            yield model


@contextmanager
def as_reference(policy: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Context that returns `policy` in eval mode."""
    with evaluating(policy):
        yield policy


def fill(cache: ReferenceCache, table: ReferenceTable, parts: Sequence[Completions], scoring: ReferencePasses) -> None:
    """Compute what is missing, and write it in shards."""
    layout, shared = scoring.layout
    work: list[tuple[Completions, np.ndarray]] = []
    lacking = [set(part.keys[table.missing(part.keys)].tolist()) for part in parts]
    known: set[bytes] = set()
    for part, wanted in zip(parts, lacking, strict=True):
        wanted -= known  # computed for an earlier part
        known |= wanted
        batches = part.batches(scoring.max_tokens, shared)
        work += [(part, batch) for batch in batches if not wanted.isdisjoint(part.keys[batch].tolist())]
    log.info("Computing the log-probs of %d completions under the reference, for %s.", len(known), cache.folder)
    shard, since = _Shard(), time.monotonic()
    mine, own = scoring.share(work)
    steps = track(mine, "Reference log-probs", transient=True, disable=scoring.quiet)
    with scoring.reference() as model:
        for number, (part, batch) in enumerate(steps):
            logps = scoring.logps(model, layout(part.micro_batch(batch)))
            if number < own:
                shard.add(part.keys[batch], logps, known)
            if time.monotonic() - since > _SECONDS:
                shard.write(cache)
                since = time.monotonic()
    shard.write(cache)


class _Shard:
    """Log-probs that have not been written."""

    def __init__(self) -> None:
        self._keys: list[np.ndarray] = []
        self._logps: list[Tensor] = []

    def add(self, keys: np.ndarray, logps: Sequence[Tensor], wanted: Collection[bytes]) -> None:
        """Add the completions that are not in the cache."""
        kept = [index for index, key in enumerate(keys.tolist()) if key in wanted]
        self._keys.append(keys[kept])
        self._logps += [logps[index] for index in kept]

    def write(self, cache: ReferenceCache) -> None:
        """Write them."""
        if self._logps:
            cache.add(np.concatenate(self._keys), self._logps)
        self._keys, self._logps = [], []
