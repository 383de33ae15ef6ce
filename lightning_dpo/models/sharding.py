"""FSDP2 for any causal LM of transformers: weights, gradients and optimizer states are sharded over devices."""

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
    """Shard `model` in place: every decoder layer separately, then the rest.

    transformers derives all decoder layers from one class, so one rule covers all architectures. Weights are gathered
    for a layer's forward pass and again for its backward pass. The same holds for the root (`reshard_after_forward`),
    so that between two passes every parameter is a shard, which optimizer and checkpoints expect.

    Args:
        model: The model. The wrapper of peft has no weights and is bypassed in generation, so the model inside it is
            sharded.
        mesh: The devices, one dimension.
        precision: Precision of the Trainer. With `bf16-mixed`, weights are gathered in bf16 and gradients are summed in
            fp32.

    Raises:
        UserError: The model has no decoder layers of transformers.
    """
    inner = base_model(model)
    layers = [module for module in inner.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"strategy=fsdp shards decoder layers of transformers, and {type(inner).__name__} has none: use ddp"
        )
    # Gradients are reduced in fp32: a sum over many devices in bf16 would lose small gradients.
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = mixed if precision == "bf16-mixed" else MixedPrecisionPolicy()
    for part in (*reversed(layers), inner):  # inner layers before the layers that contain them
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on the model."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def make_whole(model: PreTrainedModel, keep: bool) -> None:
    """Convert a sharded model to a plain one, in place, on the CPU. A collective call.

    Args:
        model: The sharded model. Afterwards it has new parameters, and can be called, saved or merged.
        keep: Whether this device keeps the weights. On other devices, the model cannot be used afterwards.
    """
    whole: dict[int, nn.Parameter] = {}  # by id, so that tied weights stay tied
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # `full` is a collective call, so all devices must reach it, also those that do not keep the result.
            if id(parameter) not in whole:
                values = full(parameter.detach()).cpu()
                whole[id(parameter)] = nn.Parameter(values if keep else values[:0], parameter.requires_grad)
            module._parameters[name] = whole[id(parameter)]
        if isinstance(module, FSDPModule):
            # FSDP2 has no public way back: without its hooks, a forward pass does not gather weights.
            state = module._get_fsdp_state()
            state._pre_forward_hook_handle.remove()
            state._post_forward_hook_handle.remove()
            # fully_shard replaced the class by a subclass of FSDPModule and the original class.
            module.__class__ = type(module).__mro__[module._orig_cls_mro_index]


def gradient_norm(model: nn.Module) -> torch.Tensor:
    """Norm of the gradient of all parameters, sharded or not. Shape: (). A collective call."""
    return full(nn.utils.get_total_norm([value.grad for value in model.parameters() if value.grad is not None]))


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a sharded one; any other unchanged. A collective call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
