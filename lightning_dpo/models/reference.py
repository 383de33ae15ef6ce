"""The frozen reference: a copy of the policy, the policy without its adapter, another model, or none."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lightning_dpo.batch import CompletionLogps, PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.logps.forward import attention_of
from lightning_dpo.losses.interface import PreferenceLossFunction
from lightning_dpo.models.adapter import AdapterFactory, NoAdapter
from lightning_dpo.models.adapter_kinds import has_dropout, is_untrained, keeps_base
from lightning_dpo.models.adapter_switching import copy_adapter, with_copy, without_adapter
from lightning_dpo.models.causal_lm import CausalLM
from lightning_dpo.models.comparable import check_comparable


class Reference(ABC):
    """A frozen model. It is not trained and not part of checkpoints.

    Attributes:
        starts_equal: Whether the policy equals the reference before the first step, so that all rewards are 0.
        model: The reference's own model. `DPOModule` keeps it outside its module tree, so that checkpoints, optimizers
            and strategy wrappers do not include it. None if the reference uses the policy's weights.
        answers: Whether the reference can generate answers.
    """

    starts_equal: bool
    model: PreTrainedModel | None = None
    answers: bool = True

    @abstractmethod
    def active(self) -> AbstractContextManager[PreTrainedModel]:
        """Context that returns the model to call, in eval mode and without gradient."""

    def logps(self, batch: PreferenceBatch, tokens: bool = False) -> CompletionLogps:
        """log π_ref(y|x) of every completion of `batch`, and of its tokens if `tokens`."""
        with self.active() as model:
            return completion_logps(model, batch, tokens)


class FrozenModel(Reference):
    """A separate model.

    Args:
        model: The model. It is set to eval mode without gradients.
        starts_equal: See `Reference`.
    """

    def __init__(self, model: PreTrainedModel, starts_equal: bool) -> None:
        self.model = model.eval().requires_grad_(False)
        self.starts_equal = starts_equal

    @contextmanager
    def active(self) -> Iterator[PreTrainedModel]:
        # `no_grad` and not `inference_mode`: the log-probs become constants in the graph of the loss.
        with torch.no_grad():
            yield cast(PreTrainedModel, self.model)


class WithinPolicy(Reference):
    """The policy itself, with its adapter disabled or replaced by a frozen copy.

    Args:
        policy: The policy.
        switched: Context in which the policy is the reference.
        starts_equal: See `Reference`.
    """

    def __init__(
        self, policy: PeftModel, switched: Callable[[PeftModel], AbstractContextManager[None]], starts_equal: bool
    ) -> None:
        self.policy, self.switched, self.starts_equal = policy, switched, starts_equal

    @contextmanager
    def active(self) -> Iterator[PreTrainedModel]:
        with torch.no_grad(), self.switched(self.policy):
            yield cast(PreTrainedModel, self.policy)


class ReferenceFactory(ABC):
    """Creates the reference from the untrained policy: the argument `reference` of `DPOModule` and its config group."""

    def check(self, loss: PreferenceLossFunction, adapter: AdapterFactory | None = None) -> None:
        """Check the combination of reference, loss and adapter before anything is loaded.

        Raises:
            UserError: The loss does not read a reference, or needs one that is missing, or the adapter is missing.
        """
        if not loss.needs_reference:
            raise UserError(f"reference has no effect: {loss!r} does not read one; use reference=auto")

    @abstractmethod
    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference | None:
        """The reference of `policy`, or None for none."""


@dataclass(frozen=True)
class Frozen(ReferenceFactory):
    """A copy of the policy before training."""

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference:
        # The start check runs in training mode, where the dropout of a trained adapter makes policy and copy differ.
        noisy = isinstance(policy, PeftModel) and has_dropout(policy) and not is_untrained(policy)
        # A copy is possible only before `shard`: FSDP modules do not support deepcopy.
        return FrozenModel(copy.deepcopy(policy), starts_equal=not noisy)


@dataclass(frozen=True)
class AdapterOff(ReferenceFactory):
    """The policy without its adapter."""

    def check(self, loss: PreferenceLossFunction, adapter: AdapterFactory | None = None) -> None:
        super().check(loss)
        if isinstance(adapter, NoAdapter):
            raise UserError("reference=adapter_off needs an adapter: set adapter=lora, or use reference=auto")

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference:
        if not isinstance(policy, PeftModel):
            raise UserError("reference=adapter_off: the policy has no adapter; set adapter=lora, or use reference=auto")
        if not keeps_base(policy):
            raise UserError(
                "reference=adapter_off: the model without this adapter is not its base model, because the adapter "
                "trains biases, or was initialized by replacing weights of the model; use reference=auto"
            )
        return WithinPolicy(policy, without_adapter, starts_equal=is_untrained(policy))


@dataclass(frozen=True)
class AdapterCopy(ReferenceFactory):
    """The policy with a copy of its adapter before training. The model itself is not copied."""

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference:
        if not isinstance(policy, PeftModel):
            raise UserError("the reference cannot be a copy of the policy's adapter: the policy has no adapter")
        copy_adapter(policy)
        return WithinPolicy(policy, with_copy, starts_equal=not has_dropout(policy))


@dataclass(frozen=True)
class AnotherModel(ReferenceFactory):
    """Another model, opened with the policy's dtype and attention. It must have the policy's vocabulary.

    Args:
        name: Hub id or folder.
        trust_remote_code: Execute Python code that comes with it.
        quantization: `nf4` or `int8`; see `CausalLM`.
    """

    name: str
    trust_remote_code: bool = False
    quantization: str | None = None

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference:
        dtype = str(policy.dtype).removeprefix("torch.")
        try:
            attention = attention_of(policy)
            model = CausalLM(
                self.name,
                dtype=dtype,
                attention=attention,
                trust_remote_code=self.trust_remote_code,
                quantization=self.quantization,
            ).policy()
        except UserError as error:
            raise UserError(f"reference.name={self.name}: {error}") from error
        check_comparable(policy, model)
        return FrozenModel(model, starts_equal=False)


class Zero(Reference):
    """log π_ref = 0, so that rewards are β log π."""

    starts_equal = False
    answers = False

    def active(self) -> AbstractContextManager[PreTrainedModel]:
        raise RuntimeError("this reference has no model")

    def logps(self, batch: PreferenceBatch, tokens: bool = False) -> CompletionLogps:
        lengths = batch.completion_lengths
        zeros = lengths.new_zeros(len(lengths), int(lengths.max())) if tokens else None
        return CompletionLogps(torch.zeros_like(lengths), lengths, zeros)


@dataclass(frozen=True)
class LogProbOnly(ReferenceFactory):
    """No reference model: rewards are β log π. Only for evaluation; DPO without a reference is another objective."""

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference:
        return Zero()


@dataclass(frozen=True)
class NoReference(ReferenceFactory):
    """No reference, for a loss that does not need one."""

    def check(self, loss: PreferenceLossFunction, adapter: AdapterFactory | None = None) -> None:
        if loss.needs_reference:
            raise UserError(f"reference=none: {loss!r} needs a reference; use reference=auto")

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> None:
        return None


@dataclass(frozen=True)
class Auto(ReferenceFactory):
    """The policy before training, with as little memory as possible; none for a loss that does not need one.

    With a new adapter, the policy without it; with a trained adapter, the policy with a copy of it; without an adapter,
    a copy of the policy.
    """

    def check(self, loss: PreferenceLossFunction, adapter: AdapterFactory | None = None) -> None:
        """Valid for every loss."""

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference | None:
        if not loss.needs_reference:
            return None
        if not isinstance(policy, PeftModel):
            return Frozen()(policy, loss)
        return (AdapterOff() if is_untrained(policy) else AdapterCopy())(policy, loss)
