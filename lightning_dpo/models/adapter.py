"""What is trained: all weights, or an adapter that the model comes with. `lora.py` adds a new one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel

from lightning_dpo.errors import UserError
from lightning_dpo.models.adapter_kinds import own_adapter
from lightning_dpo.models.merging import merged
from lightning_dpo.models.opening import freeze_other_parts


class AdapterFactory(ABC):
    """Selects the parameters to train: the argument `adapter` of `DPOModule` and the config group `adapter`."""

    merge: bool = False

    @abstractmethod
    def __call__(self, policy: PreTrainedModel) -> PreTrainedModel:
        """The policy, with `requires_grad` set on the parameters to train."""


def check_adapter(adapter: object) -> None:
    """Check the argument `adapter` of `DPOModule`.

    Raises:
        UserError: It is neither None nor an `AdapterFactory`, but for example a config of peft.
    """
    if adapter is not None and not isinstance(adapter, AdapterFactory):
        raise UserError(
            f"adapter={type(adapter).__name__} must be an adapter of lightning_dpo, such as LoRA(r=16); a model that "
            "peft has wrapped is trained without an adapter argument: pass it as the policy"
        )


@dataclass(frozen=True)
class NoAdapter(AdapterFactory):
    """Trains all weights. An adapter that the model comes with is merged into them."""

    def __call__(self, policy: PreTrainedModel) -> PreTrainedModel:
        if isinstance(policy, PeftModel):
            policy = merged(policy)
            policy.requires_grad_(True)
            freeze_other_parts(policy)
        return policy


@dataclass(frozen=True)
class Continue(AdapterFactory):
    """Continues to train the adapter `model.name`. A frozen copy of it is the reference.

    Args:
        merge: Also export the model with the adapter merged into it.
    """

    merge: bool = False

    def __call__(self, policy: PreTrainedModel) -> PreTrainedModel:
        if not isinstance(policy, PeftModel):
            raise UserError("adapter=continue: model.name is not an adapter; adapter=lora adds a new one")
        policy.set_adapter(own_adapter(policy))  # makes it trainable
        policy.peft_config[own_adapter(policy)].inference_mode = False
        return policy
