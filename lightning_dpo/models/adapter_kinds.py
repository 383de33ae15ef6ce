"""Kinds of adapters: which ones are supported, and what is known about one from its config and weights."""

from pathlib import Path

from peft import PeftConfig, PeftModel, PeftType
from torch import nn

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model

REFERENCE = "reference"
"""The name of the frozen copy of the policy's adapter, which is the reference."""

# By name, because older versions of peft do not have all of them.
_UNSUPPORTED = {
    "ADAPTION_PROMPT": "peft can neither copy nor merge it",
    "ADALORA": "its ranks are changed by calls during training that this package does not make",
    "LILY": "its layers share weights, which peft can neither copy nor merge",
    "POLY": "it needs a task id for each pair",
    "XLORA": "it mixes other adapters, which are not trained",
}
# Initializations of LoRA that replace weights of the base model, and those of them that are not repeatable.
_RANDOM = ("pissa_niter", "corda", "loftq", "lora_ga")
_REPLACING = ("pissa", "olora", *_RANDOM)


def base_name(policy: PeftModel) -> str:
    """Hub id or folder of the adapter's base model; empty for a model that was created in code."""
    name = base_model(policy).name_or_path or ""
    return str(Path(name).resolve()) if Path(name).is_dir() and name else name


def own_adapter(policy: PeftModel) -> str:
    """The name of the policy's adapter; peft's is `default`."""
    return next(name for name in policy.peft_config if name != REFERENCE)


def kind_of(policy: PeftModel) -> str:
    """The name of the kind of the policy's adapter, for messages: `LORA` or another `PeftType`."""
    return PeftType(policy.peft_config[own_adapter(policy)].peft_type).value


def check_supported(config: PeftConfig, name: str) -> None:
    """Check that a saved adapter can be trained, and opened with the same result every time.

    Args:
        config: The config of the adapter.
        name: Its hub id or folder.

    Raises:
        UserError: It cannot.
    """
    kind = PeftType(config.peft_type).value
    reason = _UNSUPPORTED.get(kind)
    if config.is_prompt_learning:
        reason = "it adds virtual tokens before the prompt, which shifts the position of every later token"
    if reason:
        raise UserError(f"model.name={name} is an adapter of the kind {kind}, which is not supported: {reason}")
    initialization = str(getattr(config, "init_lora_weights", ""))
    if initialization.startswith(_RANDOM):
        raise UserError(
            f"model.name={name} is a LoRA adapter that was initialized by {initialization}, which changed the weights "
            "of its base model in a way that opening it does not repeat: save it with peft's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)"
        )


def keeps_base(policy: PeftModel) -> bool:
    """Whether the model with its adapter disabled is its base model."""
    return config_keeps_base(policy.peft_config[own_adapter(policy)])


def config_keeps_base(config: PeftConfig) -> bool:
    """Whether an adapter changes no biases or base weights."""
    initialization = str(getattr(config, "init_lora_weights", ""))
    return getattr(config, "bias", "none") == "none" and not initialization.startswith(_REPLACING)


def is_untrained(policy: PeftModel) -> bool:
    """Whether the adapter has no effect yet: it is a LoRA, and one of its two factors is 0 in every layer."""
    if not keeps_base(policy):
        return False
    zeros = [value for name, value in policy.named_parameters() if "lora_B." in name or "lora_embedding_A." in name]
    return bool(zeros) and all(not value.any() for value in zeros)


def has_dropout(policy: PeftModel) -> bool:
    """Whether the policy has dropout, so that two forward passes in training mode differ."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in policy.modules())
