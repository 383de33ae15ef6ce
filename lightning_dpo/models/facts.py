"""What identifies a policy and its reference in a checkpoint: settings and digests, by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from lightning_dpo.checkpoints.identity import REFERENCE
from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import attention_of, base_model
from lightning_dpo.models.adapter_kinds import own_adapter
from lightning_dpo.models.causal_lm import OPTIONAL, CausalLM, PolicySource
from lightning_dpo.models.digests import digest_of, remembered, tensor_digest, versions, weights_digest
from lightning_dpo.models.reference import Reference, WithinPolicy

# Fields of a model's config that have no effect on its log-probs.
_NO_EFFECT = (
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache", "id2label",
    "label2id",
)  # fmt: skip
STARTING_ADAPTER = "starting adapter (sha256)"
_CONFIGS = ("config.json", "adapter_config.json")
STARTING_WEIGHTS = "starting weights (sha256)"
STARTING = "the starting weights"
"""The fact `REFERENCE` of a reference that is the policy before training."""


def weight_files(source: PolicySource) -> list[Path]:
    """The files of the model that `opened_policy` has opened; empty if it is not read from files."""
    if isinstance(source, str | Path):
        source = CausalLM(str(source))
    if not isinstance(source, CausalLM) or not source.pretrained:
        return []
    found = [cached_file(name, file, **OPTIONAL) for name in {source.name, source.base()} for file in _CONFIGS]
    folders = {Path(file).parent for file in found if file}
    return [path for folder in folders for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json")]


def model_facts(policy: PreTrainedModel) -> dict[str, str]:
    """The model's config, its dtype and its attention implementation."""
    config: dict[str, Any] = policy.config.to_dict()
    facts = {f"model.{name}": str(value) for name, value in config.items() if name not in _NO_EFFECT}
    return facts | {"model.dtype": str(policy.dtype), "model.attention": attention_of(policy)}


def weights_facts(policy: PreTrainedModel, source: PolicySource) -> dict[str, str]:
    """The digests of the policy's weights before an adapter is added, and of the adapter that it came with.

    Args:
        policy: The policy, as it was opened from `source`.
        source: If it names files, their digest is computed once.

    Raises:
        UserError: Weights are NaN or infinite.
    """

    def compute() -> str:
        check_finite(policy)
        return weights_digest(policy)

    facts = {STARTING_WEIGHTS: remembered(weight_files(source), compute, of=_form_of(policy))}
    facts[STARTING_ADAPTER] = "none"
    if isinstance(policy, PeftModel):
        facts[STARTING_ADAPTER] = adapter_digest(policy)
    return facts


def _form_of(policy: PreTrainedModel) -> str:
    """The form in which weights were opened from their files."""
    quantization = getattr(base_model(policy).config, "quantization_config", None)
    return f"weights as {policy.dtype}" + (f", quantized with {quantization}" if quantization else "")


def adapter_digest(policy: PeftModel) -> str:
    """Digest of the weights of an adapter, without its base."""
    # Otherwise, peft asks the hub whether the embedding was resized.
    name = own_adapter(policy)
    adapter = get_peft_model_state_dict(policy, adapter_name=name, save_embedding_layers=False)
    return digest_of(
        part.encode() for part in sorted(f"{key} {tensor_digest(value)}" for key, value in adapter.items())
    )


def check_finite(model: nn.Module) -> None:
    """Check that all weights are finite. Log-probs would be NaN, and nothing would name the reason.

    Raises:
        UserError: One is not; the message contains its name.
    """
    for name, value in model.named_parameters():
        if value.is_floating_point() and value.numel() and not torch.stack(value.detach().aminmax()).isfinite().all():
            raise UserError(
                f"the weight {name} of the model is NaN or infinite, or too large for {value.dtype}: the model's files "
                "are damaged, or its training diverged; use another checkpoint of it"
            )


def adapter_facts(policy: PreTrainedModel) -> dict[str, dict[str, str]]:
    """The settings of an adapter, by kind: `shape` without which its weights cannot be loaded, and `adapter`."""
    if not isinstance(policy, PeftModel):
        return {"shape": {"adapter": "none"}}
    config = policy.peft_config[own_adapter(policy)]
    shape = {name: str(getattr(config, name, None)) for name in ("r", "use_dora")}
    adapter = {name: str(getattr(config, name, None)) for name in ("lora_alpha", "lora_dropout", "use_rslora")}
    shape |= {"rank_pattern": str(getattr(config, "rank_pattern", None) or {})}
    shape |= {"init_lora_weights": str(getattr(config, "init_lora_weights", None))}
    adapter |= {"alpha_pattern": str(getattr(config, "alpha_pattern", None) or {})}
    names = {"r": "adapter.r", "lora_alpha": "adapter.alpha", "lora_dropout": "adapter.dropout"}
    return {
        "shape": {"adapter": PeftType(config.peft_type).value} | {names.get(k, k): v for k, v in shape.items()},
        "adapter": {names.get(name, name): value for name, value in adapter.items()},
    }


def reference_facts(reference: Reference | None) -> dict[str, str]:
    """The reference: the starting weights, or the digest of others."""
    if reference is None:
        return {REFERENCE: "none"}
    if reference.model is None or reference.starts_equal:
        return {REFERENCE: STARTING}
    check_finite(reference.model)
    parts = [weights_digest(reference.model)]
    parts += [adapter_digest(reference.model)] if isinstance(reference.model, PeftModel) else []
    return {REFERENCE: f"other weights (sha256 {' and '.join(parts)})"}


def scoring_facts(reference: Reference | None, policy: PreTrainedModel, weights: Mapping[str, str]) -> dict[str, str]:
    """Everything that the log-probs of the reference depend on, besides tokens and precision.

    Args:
        reference: The reference.
        policy: The policy.
        weights: The facts of kind `weights`: those of the policy before training, and of the reference.
    """
    if reference is None:
        return {}
    if weights[REFERENCE] != STARTING:
        named = {REFERENCE: weights[REFERENCE]}
    elif isinstance(reference, WithinPolicy) and not reference.adapted:
        named = {STARTING_WEIGHTS: weights[STARTING_WEIGHTS], STARTING_ADAPTER: "none"}
    else:
        named = {name: weights[name] for name in (STARTING_WEIGHTS, STARTING_ADAPTER)}
    return named | model_facts(reference.model or policy) | versions()
