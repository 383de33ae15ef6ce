"""Opens a checkpoint as a causal language model: completely, or not at all."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from lightning_dpo.errors import UserError
from lightning_dpo.models.failures import failure
from lightning_dpo.models.quantization import is_quantized, use_exact_kernels

log = logging.getLogger(__name__)

_OTHER_INPUTS = {"vision_config", "audio_config"}


def open_model(name: str, named: str, options: Mapping[str, Any], trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of a hub id or folder. The modules of a multimodal model that text-only inputs do not use are frozen.

    Args:
        name: Hub id or folder.
        named: The subject of error messages, such as `model.name=org/model`.
        options: Arguments of `from_pretrained`.
        trust_remote_code: Execute Python code that comes with the model.

    Raises:
        UserError: It cannot be opened, is not a causal LM, lacks weights, or only a part of it would be opened.
    """
    # transformers and safetensors raise many kinds of exceptions for files that are damaged or foreign.
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        _check_decoder(config, named)
        multimodal = _OTHER_INPUTS & config.sub_configs.keys()
        opens = multimodal and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        auto: Any = AutoModelForImageTextToText if opens else AutoModelForCausalLM
        if quantization := options.get("quantization_config"):
            if getattr(config, "quantization_config", None):
                raise UserError(f"{named} is quantized already: remove model.quantization")
            if multimodal:
                with torch.device("meta"):
                    quantization.llm_int8_skip_modules = _unquantized(auto.from_config(config))
        options = {**options, "trust_remote_code": trust_remote_code, "output_loading_info": True}
        model, info = auto.from_pretrained(name, **options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{named} {failure(name, error)}") from error
    if missing := info["missing_keys"]:
        raise UserError(
            f"{named} lacks {len(missing)} tensors of {type(model).__name__}, such as {min(missing)}, which would be "
            "random: the model is damaged, or its config is that of another model"
        )
    if multimodal and model.config.model_type != config.model_type:
        raise UserError(
            f"{named} is a multimodal model ({config.model_type}), and only its text part can be opened "
            f"({model.config.model_type}), so its export would lose the rest: save the text part as a model of its own"
        )
    if unused := info["unexpected_keys"]:
        log.warning(
            "%s has %d tensors that %s does not use and that its export will not contain, such as %s.",
            named,
            len(unused),
            type(model).__name__,
            min(unused),
        )
    freeze_other_parts(model)
    if is_quantized(model):
        use_exact_kernels(model)
    return model


def _check_decoder(config: PreTrainedConfig, named: str) -> None:
    if config.is_encoder_decoder:
        raise UserError(
            f"{named} is an encoder-decoder model ({config.model_type}): DPO needs a causal language model, which "
            "continues its prompt, such as Llama or Qwen"
        )
    if getattr(config.get_text_config(), "use_bidirectional_attention", None) is True:
        raise UserError(
            f"{named} is not causal ({config.model_type}): its tokens attend to later ones, so it does not define "
            "autoregressive log-probs"
        )


def freeze_other_parts(model: PreTrainedModel) -> None:
    """Freeze the modules of a multimodal model that text-only inputs do not use, such as the vision tower."""
    if not _OTHER_INPUTS & model.config.sub_configs.keys():
        return
    used = {id(parameter) for part in _text_parts(model) for parameter in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)


def _unquantized(model: PreTrainedModel) -> list[str]:
    """Names of the modules of a multimodal model that are not quantized: the LM head, and what text does not use."""
    head = model.get_output_embeddings()
    return [*other_parts(model), *(name for name, module in model.named_modules() if module is head)]


def other_parts(model: PreTrainedModel) -> list[str]:
    """Names of the modules of a multimodal model that are outside of its decoder and LM head; none for other models."""
    if not _OTHER_INPUTS & model.config.sub_configs.keys():
        return []
    used = {id(module) for part in _text_parts(model) for module in part.modules()}
    # The smallest number of names: a module that contains a part of the decoder is replaced by its children.
    found, queue = [], [("", model)]
    while queue:
        prefix, parent = queue.pop()
        for name, child in parent.named_children():
            inside = [id(module) in used for module in child.modules()]
            if not any(inside):
                found.append(f"{prefix}{name}")
            elif not inside[0]:
                queue.append((f"{prefix}{name}.", child))  # type: ignore[arg-type]  # any module has children
    return sorted(found)


def _text_parts(model: PreTrainedModel) -> list[nn.Module]:
    parts = [model.get_decoder(), model.get_output_embeddings(), model.get_input_embeddings()]
    return [part for part in parts if part is not None]
