"""A Hugging Face causal LM and its tokenizer: opened by name or built from a config, and prepared for training."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from huggingface_hub.errors import HFValidationError
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file, find_adapter_config_file

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import vocabulary
from lightning_dpo.printable import one_line

# Private arguments of transformers' `cached_file`: return None for a missing file instead of raising OSError.
OPTIONAL = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
_LONGEST_REASON = 300
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class CausalLM:
    """A causal LM and its tokenizer, by name. They are opened when `policy()` or `tokenizer()` is called.

    Args:
        name: Hub id (`org/model`) or a folder written by `save_pretrained`, of a model or of an adapter. The base model
            of an adapter is opened too.
        pretrained: False builds the architecture from `config` with random weights; only the tokenizer is opened.
        config: `model_type` and the fields of that architecture's config, for `pretrained=False`.
        dtype: `float32` (default), `bfloat16` or `float16`. With bf16 weights, updates at DPO's learning rates are
            smaller than the rounding of the weights.
        attention: transformers' `attn_implementation`: `sdpa`, `eager`, `flash_attention_2`, ...
        gradient_checkpointing: Recompute activations in the backward pass, non-reentrant, to save memory.
        trust_remote_code: Execute Python code that comes with the model.
        tokenizer_name: Hub id or folder of the tokenizer; None: `name`.
    """

    name: str
    pretrained: bool = True
    config: dict[str, object] = field(default_factory=dict)
    dtype: str = "float32"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    tokenizer_name: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if not self.pretrained and "model_type" not in self.config:
            raise ValueError("pretrained=false builds the architecture from config, which must contain model_type")

    @staticmethod
    def without_effect(arguments: Mapping[str, Any]) -> dict[str, str]:
        """The arguments that have no effect in combination with the others, and why."""
        if arguments.get("pretrained", True):
            return {"config": "pretrained weights have their own architecture; set model.pretrained=false"}
        return {}

    def policy(self) -> PreTrainedModel:
        """The model on the CPU in `dtype`, with its frozen adapter if `name` is an adapter.

        Raises:
            UserError: The model cannot be opened.
        """
        base = self.base()
        named = f"model.name={self.name}" if base == self.name else f"model.name={self.name}: its base model {base}"
        options = {"attn_implementation": self.attention, "dtype": _DTYPES[self.dtype]}
        # transformers, peft and safetensors raise many kinds of exceptions for files that are damaged or foreign.
        open_model: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
        try:
            if self.pretrained:
                options |= {"trust_remote_code": self.trust_remote_code, "output_loading_info": True}
                model, info = cast(tuple[PreTrainedModel, dict[str, Any]], open_model(base, **options))
            else:
                settings = AutoConfig.for_model(**cast(dict[str, Any], self.config))
                model, info = AutoModelForCausalLM.from_config(settings, **options), {}
        except Exception as error:
            raise UserError(f"{named} {_reason(base, error)}") from error
        if missing := info.get("missing_keys"):
            raise UserError(
                f"{named} lacks {len(missing)} tensors of {type(model).__name__}, such as {min(missing)}, which would "
                "be random: the model is damaged, or its config is that of another model"
            )
        if self.gradient_checkpointing:
            # The reentrant variant needs inputs with gradients, which frozen embeddings under an adapter do not give.
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if base == self.name:
            return model
        try:
            return cast(PreTrainedModel, PeftModel.from_pretrained(model, self.name))
        except Exception as error:
            raise UserError(
                f"model.name={self.name}: the adapter does not fit {base}: {_reason(self.name, error)}"
            ) from error

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with a pad token; for an adapter without a tokenizer, that of its base model.

        Raises:
            UserError: The tokenizer cannot be opened, or it has no end-of-sequence token.
        """
        if self.tokenizer_name:
            return load_tokenizer(self.tokenizer_name, self.trust_remote_code)
        base = self.base()
        has_tokenizer = base == self.name or cached_file(self.name, "tokenizer_config.json", **OPTIONAL)
        return load_tokenizer(self.name if has_tokenizer else base, self.trust_remote_code)

    def base(self) -> str:
        """The name of the model; for an adapter, of its base model.

        Raises:
            UserError: The name is neither a folder nor a valid hub id.
        """
        if not self.pretrained:
            return self.name
        try:
            adapter = find_adapter_config_file(self.name)
            base = json.loads(Path(adapter).read_text())["base_model_name_or_path"] if adapter else self.name
        except Exception as error:
            raise UserError(f"model.name={self.name} {_reason(self.name, error)}") from error
        if not isinstance(base, str) or not base:
            raise UserError(f"model.name={self.name}: adapter_config.json does not name a base model")
        return base


def load_tokenizer(name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Open a tokenizer by hub id or folder. Without a pad token, it pads with its end-of-sequence token.

    Raises:
        UserError: The tokenizer cannot be opened, or it has no end-of-sequence token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UserError(f"the tokenizer of {name} {_reason(name, error)}") from error
    return ready_tokenizer(tokenizer)


def ready_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Set the pad token to the end of sequence if there is none. Masks never depend on the pad token."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path or 'the model'} has no end-of-sequence token, so answers would "
            "not end: set tokenizer.eos_token and save the tokenizer"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class OpensPolicy(Protocol):
    """A description of a model, such as `CausalLM`."""

    def policy(self) -> PreTrainedModel:
        """Open or create the model."""


PolicySource = str | PreTrainedModel | OpensPolicy | Callable[[], PreTrainedModel]
"""A hub id or folder, a model, a `CausalLM`, or a function that returns a model."""


def opened_policy(source: PolicySource) -> PreTrainedModel:
    """The model of `source`."""
    if isinstance(source, nn.Module):
        return cast(PreTrainedModel, source)
    if isinstance(source, str):
        source = CausalLM(source)
    return source() if callable(source) else source.policy()


def ready_policy(policy: PreTrainedModel) -> PreTrainedModel:
    """Prepare a model for DPO, in place: training mode, no dropout, no embedding exempt from training.

    With dropout, policy and reference would differ by noise before the first step. An adapter keeps its dropout, which
    only the policy has. Many architectures do not train the embedding of the pad token (`padding_idx`), which is wrong
    if the pad token is also used as another token.
    """
    # The key-value cache is useless in training, and incompatible with gradient checkpointing.
    policy.config.use_cache = False
    # Dropout modules of LoRA layers, which keep their probability.
    own = {id(dropout) for layer in policy.modules() for dropout in getattr(layer, "lora_dropout", {}).values()}
    # Some architectures read dropout from the config, others from module attributes, in each forward pass.
    for holder in (policy.config, *policy.modules()):
        for name, value in list(vars(holder).items()):
            if ("drop" in name or "pdrop" in name) and isinstance(value, float) and "lora" not in name:
                setattr(holder, name, 0.0)
        if isinstance(holder, nn.Dropout) and id(holder) not in own:
            holder.p = 0.0
    # nn.Embedding does not train the row `padding_idx`. Here it may be the EOS token, which is scored.
    cast(nn.Embedding, policy.get_input_embeddings()).padding_idx = None
    return policy.train()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context in which the model is in eval mode. It restores the mode of each submodule."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag


def check_fits(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Check that the policy has an embedding for every token and position.

    Raises:
        UserError: The tokenizer has more tokens, or `max_length` is larger than the number of positions.
    """
    positions: int | None = getattr(policy.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise UserError(
            f"data.max_length={max_length}: the model supports {positions} tokens; set it to at most {positions}"
        )
    embeddings = vocabulary(policy)
    if len(tokenizer) > embeddings:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and the policy {embeddings} embeddings: set "
            "model.tokenizer_name to the tokenizer of the model, or resize the model's embeddings and save it"
        )


def _reason(name: str, error: Exception) -> str:
    """Why a model or tokenizer cannot be opened: the predicate of a sentence about it."""
    text = str(error)
    if "gated" in text.lower() or "401 Client Error" in text:
        return "needs permission on the hub: accept its licence on its page, then run `hf auth login`"
    if not Path(name).is_dir() and isinstance(error, OSError | HFValidationError):
        return "is neither a folder with a saved model nor a hub id that can be reached"
    if "weights_only" in text or type(error).__name__ == "UnpicklingError":
        return "cannot be opened: its weights are a Python pickle that could execute code; use safetensors"
    return f"cannot be opened: {one_line(text)[:_LONGEST_REASON] or type(error).__name__}"
