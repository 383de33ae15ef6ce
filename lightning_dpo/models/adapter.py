"""LoRA adapters (https://arxiv.org/abs/2106.09685) with peft: added to a policy, disabled, and merged."""

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model

REFERENCE = "reference"


class AdapterFactory(ABC):
    """Selects the parameters to train: the argument `adapter` of `DPOModule` and the config group `adapter`."""

    merge: bool = False

    @abstractmethod
    def __call__(self, policy: PreTrainedModel) -> PreTrainedModel:
        """The policy, with `requires_grad` set on the parameters to train."""


@dataclass(frozen=True)
class NoAdapter(AdapterFactory):
    """Trains all weights. An adapter that the model comes with is merged into them."""

    def __call__(self, policy: PreTrainedModel) -> PreTrainedModel:
        if isinstance(policy, PeftModel):
            policy = merged(policy)
            policy.requires_grad_(True)
        return policy


@dataclass(frozen=True)
class LoRA(AdapterFactory):
    """Trains a new low-rank adapter. The frozen model without it is the reference.

    Args:
        r: Rank.
        alpha: The adapter's output is scaled by `alpha / r`.
        dropout: Dropout of the adapter's input during training.
        target_modules: Names of the linear layers that get an adapter; `all-linear`: all except the LM head.
        modules_to_save: Modules that are trained entirely.
        merge: Also export the model with the adapter merged into it.
    """

    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: str | Sequence[str] = "all-linear"
    modules_to_save: Sequence[str] | None = None
    merge: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r must be at least 1, got {self.r!r}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive, got {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")

    def __call__(self, policy: PreTrainedModel) -> PreTrainedModel:
        if isinstance(policy, PeftModel):
            raise UserError(
                "adapter=lora: model.name already is an adapter; adapter=continue continues to train it; to add a new "
                "one, merge it first with `python -m lightning_dpo.export RUN --merge`"
            )
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # annotated as int; peft only divides by it
            lora_dropout=self.dropout,
            target_modules=self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules),
            modules_to_save=list(self.modules_to_save) if self.modules_to_save else None,
            task_type="CAUSAL_LM",
        )
        modules = {name.rpartition(".")[2] for name, _ in policy.named_modules()}
        if missing := set(self.modules_to_save or ()) - modules:
            raise UserError(f"adapter.modules_to_save: the model has no module {', '.join(sorted(missing))}")
        try:
            return cast(PreTrainedModel, get_peft_model(policy, config))
        except ValueError as error:
            raise UserError(f"adapter.target_modules={self.target_modules}: {error}") from error


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


def merged(policy: PeftModel) -> PreTrainedModel:
    """The model with the adapter merged into its weights. It reuses the policy's tensors: do not use the policy later.

    If the LM head and the embedding share a weight and an adapter changes one of them, the weight is untied first.
    Otherwise, merging the change of one would change the other too.
    """
    base = base_model(policy)
    head, table = base.get_output_embeddings(), base.get_input_embeddings()
    adapted = any(isinstance(module, BaseTunerLayer) for module in (head, table))
    if adapted and head.weight is table.weight:
        inner = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
        inner.weight = nn.Parameter(cast(Tensor, head.weight).detach().clone(), requires_grad=False)
        _untie(base)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        merge = cast(Callable[..., PreTrainedModel], policy.base_model.merge_and_unload)
        # By name, because the frozen copy of the reference must not be merged.
        model = merge(adapter_names=[own_adapter(policy)])
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        _untie(model)  # modules_to_save trained each of them separately
    return model


def _untie(model: PreTrainedModel) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def base_name(policy: PeftModel) -> str:
    """Hub id or folder of the adapter's base model; empty for a model that was created in code."""
    name = base_model(policy).name_or_path or ""
    return str(Path(name).resolve()) if Path(name).is_dir() and name else name


def own_adapter(policy: PeftModel) -> str:
    """The name of the policy's adapter; peft's is `default`."""
    return next(name for name in policy.peft_config if name != REFERENCE)


def is_untrained(policy: PeftModel) -> bool:
    """Whether the adapter has no effect yet: it is a LoRA, and one of its two factors is 0 in every layer."""
    zeros = [value for name, value in policy.named_parameters() if "lora_B." in name or "lora_embedding_A." in name]
    return bool(zeros) and all(not value.any() for value in zeros)


def has_dropout(policy: PeftModel) -> bool:
    """Whether the policy has dropout, so that two forward passes in training mode differ."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in policy.modules())


def copy_adapter(policy: PeftModel) -> None:
    """Add a frozen copy of the policy's adapter with the name `REFERENCE`."""
    own = own_adapter(policy)
    config = copy.deepcopy(policy.peft_config[own])
    if hasattr(config, "init_lora_weights"):
        # PiSSA, OLoRA and others modify the base weights when an adapter is created with their initialization.
        config.init_lora_weights = True
    policy.add_adapter(REFERENCE, config)
    values = dict(policy.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            if f".{REFERENCE}." in name or name.endswith(f".{REFERENCE}"):
                value.copy_(values[name.replace(f".{REFERENCE}", f".{own}")]).requires_grad_(False)


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
