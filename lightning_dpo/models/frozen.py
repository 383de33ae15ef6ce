"""Frozen weights stored in bf16, for a Trainer that computes in bf16: half their memory, and bitwise the same results.

Autocast converts the matrices of linear layers to bf16 in every forward pass anyway. Embeddings, norms and fused
experts are not converted, because autocast does not convert them.
"""

from typing import Any

import torch
from peft import PeftModel, PeftType
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model
from lightning_dpo.models.adapter_kinds import REFERENCE, base_name, keeps_base, own_adapter
from lightning_dpo.models.digests import unwrapped
from lightning_dpo.models.failures import failure
from lightning_dpo.models.quantization import compute_in


def can_store_in_bf16(policy: PreTrainedModel) -> bool:
    """Whether the frozen weights of a policy can be converted: its adapter permits it, and `restore` can read them."""
    return isinstance(policy, PeftModel) and bool(base_name(policy)) and keeps_base(policy) and is_exact_in_bf16(policy)


def is_exact_in_bf16(model: PreTrainedModel) -> bool:
    """Whether a model computes the same with frozen weights in bf16: it has no adapter, or a plain LoRA adapter.

    Others, such as DoRA, compute with the base weights themselves.
    """
    if not isinstance(model, PeftModel):
        return True
    config = model.peft_config[own_adapter(model)]
    # peft's name for layers of DoRA and other changes of LoRA.
    variants = any(getattr(module, "lora_variant", None) for module in model.modules())
    return config.peft_type == PeftType.LORA and not variants and not getattr(config, "target_parameters", None)


def store_in_bf16(model: PreTrainedModel, device: torch.device) -> None:
    """Convert the frozen fp32 matrices of a model to bf16, in place.

    Afterwards, the model computes under autocast also where the Trainer does not enable it.

    Args:
        model: A reference, or a policy for which `can_store_in_bf16` is True. Weights that are trained, or shared with
            an embedding, are not converted.
        device: The device on which the model will compute.
    """
    inner = base_model(model)
    tables = {id(module.weight) for module in inner.modules() if isinstance(module, nn.Embedding)}
    for name, layer in inner.named_modules():
        if not isinstance(layer, nn.Linear | Conv1D) or layer.weight.requires_grad or id(layer.weight) in tables:
            continue
        for parameter in (layer.weight, layer.bias):
            # The frozen copy of an adapter is not in the files that `restore` reads.
            if parameter is not None and parameter.dtype == torch.float32 and REFERENCE not in name.split("."):
                parameter.data = parameter.data.bfloat16()
    compute_in(inner, torch.bfloat16)
    inner.forward = torch.autocast(device.type, torch.bfloat16)(inner.forward)


def restore(policy: PeftModel) -> None:
    """Undo `store_in_bf16`: read the weights of a policy's base model again from its files, in fp32.

    Raises:
        UserError: The base model cannot be opened again.
    """
    inner, name = base_model(policy), base_name(policy)
    if vars(inner).pop("forward", None) is None:
        return
    compute_in(inner, torch.float32)
    opens: Any = type(inner).from_pretrained
    try:
        values = dict(opens(name, dtype=torch.float32).named_parameters())
    except Exception as error:
        raise UserError(f"the base model {name} is needed for the merged export, and {failure(name, error)}") from error
    for key, parameter in inner.named_parameters():
        key = unwrapped(key)
        if parameter.dtype == torch.bfloat16 and key in values:
            parameter.data = values[key].data
