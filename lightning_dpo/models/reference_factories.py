"""Which model is the reference: the argument `reference` of `DPOModule` and its config group."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from peft import PeftModel
from transformers import PreTrainedModel

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import attention_of
from lightning_dpo.losses.interface import PreferenceLossFunction
from lightning_dpo.models.adapter import AdapterFactory, NoAdapter
from lightning_dpo.models.adapter_kinds import has_dropout, is_untrained, keeps_base
from lightning_dpo.models.adapter_switching import copy_adapter, with_copy, without_adapter
from lightning_dpo.models.causal_lm import CausalLM
from lightning_dpo.models.comparable import check_comparable
from lightning_dpo.models.reference import FrozenModel, NotHeld, Reference, WithinPolicy, Zero

Between = Literal["device", "cpu", "none"]


class ReferenceFactory(ABC):
    """Creates the reference from the untrained policy: the argument `reference` of `DPOModule` and its config group."""

    def check(self, loss: PreferenceLossFunction, adapter: AdapterFactory | None = None) -> None:
        """Check the combination of reference, loss and adapter before anything is loaded.

        Raises:
            UserError: The loss does not read a reference, or needs one that is missing, or the adapter is missing.
        """
        if not loss.needs_reference:
            raise UserError(f"reference has no effect: {loss!r} does not read one; use reference=auto")

    answers: bool = True
    """Whether the reference is available for new text during training."""

    @abstractmethod
    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference | None:
        """The reference of `policy`, or None for none."""


@dataclass(frozen=True, kw_only=True)
class StaticReference(ReferenceFactory):
    """A reference that does not change during training, so that its log-probs can be cached.

    Args:
        cache: `auto` computes the log-probs of every completion once, before training, and stores them for all runs
            with the same reference. `off` computes them in every batch.
        cache_dir: Folder of the cache; None: `lightning_dpo/reference` in the folder of Hugging Face (`HF_HOME`).
        recheck: Number of pairs whose cached log-probs are compared with the reference before training.
        between: Where the weights of the reference are between its uses: on the `device` of the policy; on the `cpu`;
            or `none`: they are not kept, and `val/kl` and samples of the reference are not available.
    """

    cache: Literal["auto", "off"] = "auto"
    cache_dir: str | None = None
    recheck: int = 8
    between: Between = "device"

    def __post_init__(self) -> None:
        if self.recheck < 0:
            raise ValueError(f"recheck must be at least 0, got {self.recheck}")
        if self.cache == "off" and self.between != "device":
            raise ValueError(f"between={self.between} needs cache=auto: without the cache, every batch needs the model")
        if self.cache == "off" and self.cache_dir is not None:
            raise ValueError("cache_dir has no effect with cache=off")

    @property
    def answers(self) -> bool:  # type: ignore[override]  # of the class above, a constant
        """Whether the reference is available for new text during training."""
        return self.between != "none"


@dataclass(frozen=True, kw_only=True)
class Frozen(StaticReference):
    """The policy before training: a copy of it, unless `between` is `none`."""

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference:
        # The start check runs in training mode, where the dropout of a trained adapter makes policy and copy differ.
        noisy = isinstance(policy, PeftModel) and has_dropout(policy) and not is_untrained(policy)
        if not self.answers:
            return NotHeld(starts_equal=not noisy)
        # A copy is possible only before `shard`: FSDP modules do not support deepcopy.
        return FrozenModel(copy.deepcopy(policy), not noisy, policy if self.between == "cpu" else None)


class _WithinPolicy(StaticReference):
    """A reference that uses the weights of the policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.between != "device":
            raise ValueError("between has no effect: the reference uses the weights of the policy")


@dataclass(frozen=True, kw_only=True)
class AdapterOff(_WithinPolicy):
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
        return WithinPolicy(policy, without_adapter, is_untrained(policy), adapted=False)


@dataclass(frozen=True, kw_only=True)
class AdapterCopy(_WithinPolicy):
    """The policy with a copy of its adapter before training. The model itself is not copied."""

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference:
        if not isinstance(policy, PeftModel):
            raise UserError("the reference cannot be a copy of the policy's adapter: the policy has no adapter")
        copy_adapter(policy)
        return WithinPolicy(policy, with_copy, not has_dropout(policy), adapted=True)


@dataclass(frozen=True)
class AnotherModel(StaticReference):
    """Another model, opened with the policy's dtype and attention. It must have the policy's vocabulary.

    Args:
        name: Hub id or folder.
        trust_remote_code: Execute Python code that comes with it.
        quantization: `nf4` or `int8`; see `CausalLM`.
        cache, cache_dir, recheck, between: See `StaticReference`.
    """

    name: str
    trust_remote_code: bool = False
    quantization: str | None = None
    recheck: int = field(default=0, kw_only=True)

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
        return FrozenModel(model, False, None if self.between == "device" else policy)


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


@dataclass(frozen=True, kw_only=True)
class Auto(StaticReference):
    """The policy before training, with as little memory as possible; none for a loss that does not need one.

    With a new adapter, the policy without it; with a trained adapter, the policy with a copy of it; without an adapter,
    a copy of the policy.
    """

    def check(self, loss: PreferenceLossFunction, adapter: AdapterFactory | None = None) -> None:
        """Check that the options have an effect.

        Raises:
            UserError: The loss does not read a reference, and an option is set.
        """
        if not loss.needs_reference and self != Auto():
            super().check(loss)

    def __call__(self, policy: PreTrainedModel, loss: PreferenceLossFunction) -> Reference | None:
        if not loss.needs_reference:
            return None
        if not isinstance(policy, PeftModel):
            return Frozen(between=self.between)(policy, loss)
        if self.between != "device":
            raise UserError(
                f"reference.between={self.between} has no effect: with an adapter, the reference uses the weights of "
                "the policy"
            )
        return (AdapterOff() if is_untrained(policy) else AdapterCopy())(policy, loss)
