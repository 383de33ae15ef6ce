"""Quantized base models for adapters, with bitsandbytes (QLoRA, https://arxiv.org/abs/2305.14314)."""

from importlib.util import find_spec
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model

QUANTIZATIONS = ("nf4", "int8")
_PACKING, _COMPUTE = "support_avx512bf16_for_cpu", "compute_dtype"  # attributes of the layers of bitsandbytes


def quantized_options(quantization: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantize the linear layers, except the LM head, while they are read.

    Args:
        quantization: `nf4` (4 bits, with quantized constants) or `int8`.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(f"model.quantization={quantization} needs bitsandbytes: pip install bitsandbytes")
    if quantization == "nf4":
        return {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
            )
        }
    # Without a threshold: outliers are selected over the whole batch, so a row would depend on the others.
    return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)}


def is_quantized(model: nn.Module) -> bool:
    """Whether the base weights of a model are quantized, by this package or in its checkpoint."""
    return bool(getattr(base_model(model), "is_quantized", False))


def check_quantized(policy: PreTrainedModel, trained: bool, sharded: bool) -> None:
    """Check that a quantized policy has an adapter if it is trained, and that it is not sharded.

    Raises:
        UserError: It has none, or it is.
    """
    if sharded:
        raise UserError("strategy=fsdp cannot shard quantized weights: use strategy=ddp")
    if trained and not isinstance(policy, PeftModel):
        raise UserError("the policy is quantized, and quantized weights cannot be trained: set adapter=lora")


def use_exact_kernels(model: PreTrainedModel) -> None:
    """Switch off kernels of bitsandbytes for CPUs that compute something else in eval mode than in training mode.

    Policy and reference would differ before the first step: the first is in training mode and the second in eval mode.
    """
    for module in model.modules():
        # The first pass in eval mode would convert the weights, with a loss, and later gradients would be wrong.
        if hasattr(module, _PACKING):
            setattr(module, _PACKING, False)
        if type(module).__name__ == "Linear8bitLt":
            # The flag only selects the kernel.
            module.__class__ = type("Linear8bitLt", (_TrainsOnCPU, type(module)), {})


class _TrainsOnCPU(nn.Module):
    """A module that is in training mode as long as it is on the CPU."""

    @property
    def training(self) -> bool:
        return self.__dict__.get("_training", True) or self.weight.device.type == "cpu"

    @training.setter
    def training(self, mode: bool) -> None:
        self.__dict__["_training"] = mode


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Set the dtype that 4-bit weights are converted to in a forward pass."""
    for module in model.modules():
        if type(module).__name__ == "Linear4bit" and hasattr(module, _COMPUTE):
            setattr(module, _COMPUTE, dtype)


def dequantized(policy: PeftModel, name: str) -> PeftModel:
    """The adapter on a base model without quantization, in fp32. It reuses the policy: do not use that later.

    Merging an adapter into quantized weights would quantize their sum, and lose more than most adapters change.

    Args:
        policy: An adapter on a quantized model.
        name: Name of the adapter.
    """
    config = policy.peft_config[name]
    weights = get_peft_model_state_dict(policy, adapter_name=name, save_embedding_layers=False)
    unload: Any = policy.unload
    plain = unload().dequantize(dtype=torch.float32)
    adapted = get_peft_model(plain, config, adapter_name=name)
    set_peft_model_state_dict(adapted, weights, adapter_name=name)
    return adapted
