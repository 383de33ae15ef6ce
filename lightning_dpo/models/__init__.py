"""The policy: opened, adapted, compared with a reference, sharded, and its answers."""

from lightning_dpo.models.adapter import AdapterFactory, Continue, NoAdapter
from lightning_dpo.models.causal_lm import CausalLM
from lightning_dpo.models.lora import LoRA
from lightning_dpo.models.reference import Reference
from lightning_dpo.models.reference_factories import (
    AdapterCopy,
    AdapterOff,
    AnotherModel,
    Auto,
    Frozen,
    NoReference,
    ReferenceFactory,
)

__all__ = [
    "AdapterCopy", "AdapterFactory", "AdapterOff", "AnotherModel", "Auto", "CausalLM", "Continue", "Frozen", "LoRA",
    "NoAdapter", "NoReference", "Reference", "ReferenceFactory",
]  # fmt: skip
