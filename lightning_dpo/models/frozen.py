"""Frozen weights in bf16, for a Trainer that computes in bf16: half their memory, and the same results bit for bit.

Autocast converts the matrices of linear layers to bf16 in every forward pass anyway. Embeddings, norms and fused
experts are not converted, because autocast does not convert them.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_dpo.logps.forward import base_model
from lightning_dpo.models.adapter_kinds import base_name, keeps_base
from lightning_dpo.models.quantization import compute_in


@dataclass
class _Held:
    """What `hold_in_bf16` did to a model: names of the converted parameters, and hooks."""

    names: list[str] = field(default_factory=list)
    hooks: list[RemovableHandle] = field(default_factory=list)


# By model, so that `restore` finds it and models are not kept in memory.
_held: WeakKeyDictionary[nn.Module, _Held] = WeakKeyDictionary()


def can_hold(policy: PreTrainedModel) -> bool:
    """Whether the frozen weights of a policy can be converted: an adapter's, which `restore` can read again."""
    return isinstance(policy, PeftModel) and bool(base_name(policy)) and keeps_base(policy)


def hold_in_bf16(model: PreTrainedModel) -> None:
    """Convert the frozen fp32 matrices of a model to bf16, in place.

    Afterwards, the model computes under autocast also where the Trainer does not enable it.

    Args:
        model: A reference, or a policy for which `can_hold` is True. Weights that are trained, or shared with an
            embedding, are not converted.
    """
    inner = base_model(model)
    names = {id(parameter): name for name, parameter in inner.named_parameters()}
    tables = {id(module.weight) for module in inner.modules() if isinstance(module, nn.Embedding)}
    held = _Held()
    for layer in inner.modules():
        if not isinstance(layer, nn.Linear | Conv1D) or layer.weight.requires_grad or id(layer.weight) in tables:
            continue
        for parameter in (layer.weight, layer.bias):
            if parameter is not None and parameter.dtype == torch.float32 and not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
                held.names.append(names[id(parameter)])
    compute_in(inner, torch.bfloat16)
    if held.names:
        held.hooks = _compute_in_bf16(inner)
        _held[inner] = held


def restore(policy: PeftModel) -> None:
    """Read the converted weights of a policy's base model again from its files, in fp32."""
    inner = base_model(policy)
    compute_in(inner, torch.float32)
    held = _held.pop(inner, None)
    if held is None:
        return
    opened = type(inner).from_pretrained(base_name(policy), dtype=torch.float32)
    values, own = dict(opened.named_parameters()), dict(inner.named_parameters())
    for name in held.names:
        own[name].data = values[name.replace(".base_layer.", ".")].data
    for hook in held.hooks:
        hook.remove()


def _compute_in_bf16(model: nn.Module) -> list[RemovableHandle]:
    """Enable autocast in all forward passes of a model."""
    entered: list[AbstractContextManager[None]] = []

    def enter(module: nn.Module, args: object) -> None:
        device = next(module.parameters()).device.type
        entered.append(torch.autocast(device, torch.bfloat16))
        entered[-1].__enter__()

    def leave(module: nn.Module, args: object, output: object) -> None:
        entered.pop().__exit__(None, None, None)

    return [
        model.register_forward_pre_hook(enter, prepend=True), model.register_forward_hook(leave, always_call=True)
    ]  # fmt: skip
