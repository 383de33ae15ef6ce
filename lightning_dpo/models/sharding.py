"""FSDP2 for any causal LM of transformers: weights, gradients and optimizer states spread over the devices."""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model


def shard(model: PreTrainedModel, mesh: DeviceMesh, precision: str) -> None:
    """Shard `model` in place: every decoder layer by itself, then what is left.

    transformers derives every decoder layer from one class, so one rule serves all architectures. Weights are gathered
    for a layer's forward pass and again for its backward pass, the root's as well: between two passes every parameter
    is a shard, whatever ran last.

    Args:
        model: The model; of one with an adapter, what is under peft's wrapper, which has no weights of its own and is
            passed by in generation.
        mesh: The devices, one dimension.
        precision: The Trainer's. With `bf16-mixed`, weights are gathered in bf16 and gradients summed in fp32.

    Raises:
        UserError: The model has no such layers.
    """
    inner = base_model(model)
    layers = [module for module in inner.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"strategy=fsdp shards decoder layers of transformers, and {type(inner).__name__} has none: use ddp"
        )
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = mixed if precision == "bf16-mixed" else MixedPrecisionPolicy()
    for part in (*reversed(layers), inner):  # a layer within a layer first
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def make_whole(model: PreTrainedModel, keep: bool) -> None:
    """Turn a sharded model back into a plain one, in place and on the CPU; called on all devices at once.

    Args:
        model: What `shard` was called on. It can be called, saved or merged afterwards; its parameters are new ones.
        keep: Whether this device keeps the weights; where it does not, the model is no use afterwards.
    """
    whole: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in whole:
                values = full(parameter.detach()).cpu()
                whole[id(parameter)] = nn.Parameter(values if keep else values[:0], parameter.requires_grad)
            module._parameters[name] = whole[id(parameter)]
        if isinstance(module, FSDPModule):
            # It would gather its weights in a forward pass.
            state = module._get_fsdp_state()
            state._pre_forward_hook_handle.remove()
            state._post_forward_hook_handle.remove()
            # fully_shard derived a class of itself and the module's own class, which is at this place.
            module.__class__ = type(module).__mro__[module._orig_cls_mro_index]


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a sharded tensor; any other as it is. Called on all devices at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
