"""The policy's adapter disabled, or replaced by a frozen copy: the reference without a second model."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor

from lightning_dpo.errors import UserError
from lightning_dpo.models.adapter_kinds import REFERENCE, kind_of, own_adapter
from lightning_dpo.printable import one_line


def copy_adapter(policy: PeftModel) -> None:
    """Add a frozen copy of the policy's adapter with the name `REFERENCE`.

    Raises:
        UserError: peft cannot add a second adapter of this kind.
    """
    own = own_adapter(policy)
    config = copy.deepcopy(policy.peft_config[own])
    if hasattr(config, "init_lora_weights"):
        # PiSSA, OLoRA and others modify the base weights when an adapter is created with their initialization.
        config.init_lora_weights = True
    try:
        policy.add_adapter(REFERENCE, config)
        values = dict(policy.named_parameters())
        with torch.no_grad():
            for name, value in values.items():
                if f".{REFERENCE}." in name or name.endswith(f".{REFERENCE}"):
                    value.copy_(values[name.replace(f".{REFERENCE}", f".{own}")]).requires_grad_(False)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UserError(
            f"peft cannot copy this {kind_of(policy)} adapter for the reference ({one_line(str(error))}): use "
            "reference=frozen, a copy of the whole model"
        ) from error


@contextmanager
def without_adapter(policy: PeftModel) -> Iterator[None]:
    """Context in which `policy` computes without its adapter, in eval mode and without gradient."""
    with _untouched(policy), policy.disable_adapter():
        yield


@contextmanager
def with_copy(policy: PeftModel) -> Iterator[None]:
    """Context in which `policy` uses the copy of `copy_adapter`, in eval mode and without gradient."""
    with _untouched(policy):
        policy.set_adapter(REFERENCE)
        try:
            yield
        finally:
            policy.set_adapter(own_adapter(policy))


@contextmanager
def _untouched(policy: PeftModel) -> Iterator[None]:
    """Context in which the policy is in eval mode and must not compute gradients. It restores all flags.

    peft's own context managers make frozen adapters trainable again, and a backward pass inside them silently computes
    wrong gradients.

    Raises:
        RuntimeError: Gradients are enabled, or a backward pass reaches the policy.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("the policy's adapter can be switched only without gradients: use torch.no_grad()")
    training = [module for module in policy.modules() if module.training]
    trainable = [(parameter, parameter.requires_grad) for parameter in policy.parameters()]
    # A hook on a weight is called only if a backward pass reaches it.
    hooks = [parameter.register_hook(_refuse) for parameter, trains in trainable if trains]
    try:
        # `policy.eval()` would visit every module in every step. Only modules in training mode are changed.
        for module in training:
            module.training = False
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
        for parameter, flag in trainable:
            if parameter.requires_grad is not flag:
                parameter.requires_grad_(flag)


def _refuse(gradient: Tensor) -> None:
    raise RuntimeError("a backward pass while the reference is active would compute wrong gradients for the policy")
