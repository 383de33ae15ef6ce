"""What the frozen reference is: a copy of the policy, another model, or nothing. It never trains and is never saved."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.logps import CompletionLogps, completion_logps
from lightning_dpo.losses.interface import PreferenceLossFunction
from lightning_dpo.policy import CausalLM


class Reference:
    """A frozen model.

    `DPOModule` holds it outside its module tree, so that no checkpoint, optimizer or strategy wrapper sees it, and
    moves it along with itself.

    Args:
        model: The model; put into eval mode, its gradients switched off.
        starts_equal: Whether the policy is this very model before its first step, so that every reward is 0 then.
    """

    def __init__(self, model: PreTrainedModel, starts_equal: bool) -> None:
        self.model = model.eval().requires_grad_(False)
        self.starts_equal = starts_equal

    @torch.no_grad()
    def logps(self, batch: PreferenceBatch) -> CompletionLogps:
        """log π_ref(y|x) of every completion of `batch`."""
        return completion_logps(self.model, batch)


class ReferenceFactory(ABC):
    """Makes the reference out of the untrained policy. What `DPOModule` takes and `reference=` names."""

    def check(self, loss: PreferenceLossFunction) -> None:
        """Refuse a reference that `loss` does not read, or one that it lacks, before anything is loaded.

        Raises:
            UserError: It is so.
        """
        if not loss.needs_reference:
            raise UserError(f"reference: {loss!r} reads no reference, so one would have no effect; use reference=auto")

    @abstractmethod
    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference | None:
        """The reference of `policy`, or None for none."""


@dataclass(frozen=True)
class Frozen(ReferenceFactory):
    """A copy of the policy as it is before training."""

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference:
        return Reference(copy.deepcopy(policy), starts_equal=True)


@dataclass(frozen=True)
class AnotherModel(ReferenceFactory):
    """Another model, opened with the policy's dtype and attention; it must have the policy's vocabulary.

    Args:
        name: Hub id or folder.
    """

    name: str

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference:
        dtype = str(policy.dtype).removeprefix("torch.")
        try:
            model = CausalLM(self.name, dtype=dtype, attention=policy.config._attn_implementation).policy()
        except UserError as error:
            raise UserError(f"reference.name={self.name}: it cannot be opened: {error}") from error
        check_comparable(policy, model)
        return Reference(model, starts_equal=False)


@dataclass(frozen=True)
class NoReference(ReferenceFactory):
    """No reference, for a loss that needs none."""

    def check(self, loss: PreferenceLossFunction) -> None:
        if loss.needs_reference:
            raise UserError(f"reference=none: {loss!r} compares with a reference; use reference=auto")

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> None:
        return None


@dataclass(frozen=True)
class Auto(ReferenceFactory):
    """A frozen copy of the policy where the loss compares with a reference, else nothing."""

    def check(self, loss: PreferenceLossFunction) -> None:
        """Any loss will do."""

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference | None:
        return Frozen()(policy, loss) if loss.needs_reference else None


def check_comparable(policy: PreTrainedModel, reference: PreTrainedModel) -> None:
    """Refuse a reference whose log-probs do not mean the same as the policy's, to the last bit.

    Raises:
        UserError: They differ in vocabulary size, special tokens, dtype or attention implementation.
    """
    theirs = _facts(reference)
    differences = [f"{key} {value} and {theirs[key]}" for key, value in _facts(policy).items() if value != theirs[key]]
    if differences:
        raise UserError(f"policy and reference differ in {', '.join(differences)}: the log-ratio would mean nothing")


def _facts(model: PreTrainedModel) -> dict[str, object]:
    return {
        "vocabulary size": model.config.vocab_size,
        "beginning-of-sequence id": model.config.bos_token_id,
        "end-of-sequence id": model.config.eos_token_id,
        "dtype": model.dtype,
        "attention implementation": model.config._attn_implementation,
    }
