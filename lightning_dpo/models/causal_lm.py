"""A Hugging Face causal LM and its tokenizer: opened by name, or built from a config."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file, find_adapter_config_file

from lightning_dpo.errors import UserError
from lightning_dpo.models.adapter_kinds import check_supported
from lightning_dpo.models.failures import failure
from lightning_dpo.models.opening import open_model
from lightning_dpo.models.quantization import QUANTIZATIONS, quantized_options
from lightning_dpo.models.router_loss import set_coefficient
from lightning_dpo.models.tokenizers import load_tokenizer

# Private arguments of transformers' `cached_file`: return None for a missing file instead of raising OSError.
OPTIONAL = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
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
        router_loss_coef: Coefficient of the auxiliary router loss of a mixture-of-experts model; 0: the loss is not
            used; None: the coefficient of the model's config.
        quantization: `nf4` (4 bits) or `int8`: quantize the linear layers, for an adapter (QLoRA); None: do not.
    """

    name: str
    pretrained: bool = True
    config: dict[str, object] = field(default_factory=dict)
    dtype: str = "float32"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    tokenizer_name: str | None = None
    router_loss_coef: float | None = None
    quantization: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if not self.pretrained and "model_type" not in self.config:
            raise ValueError("pretrained=false builds the architecture from config, which must contain model_type")

        if self.router_loss_coef is not None and not 0 <= self.router_loss_coef < float("inf"):
            raise ValueError(f"router_loss_coef must be a number of at least 0, got {self.router_loss_coef!r}")
        if self.quantization not in (None, *QUANTIZATIONS):
            raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}, got {self.quantization!r}")
        if self.quantization and not self.pretrained:
            raise ValueError("quantization needs pretrained weights: random ones would be quantized")

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
        options: dict[str, Any] = {"attn_implementation": self.attention, "dtype": _DTYPES[self.dtype]}
        if self.quantization:
            options |= quantized_options(self.quantization)
        model = open_model(base, named, options, self.trust_remote_code) if self.pretrained else self._built(options)
        if self.router_loss_coef is not None:
            set_coefficient(model, self.router_loss_coef)
        if self.gradient_checkpointing:
            # The reentrant variant needs inputs with gradients, which frozen embeddings under an adapter do not give.
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if base == self.name:
            return model
        try:
            check_supported(PeftConfig.from_pretrained(self.name), self.name)
            return cast(PreTrainedModel, PeftModel.from_pretrained(model, self.name))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"model.name={self.name}: the adapter does not fit {base}: {failure(self.name, error)}"
            ) from error

    def _built(self, options: dict[str, Any]) -> PreTrainedModel:
        """A model with random weights."""
        try:
            settings = AutoConfig.for_model(**cast(dict[str, Any], self.config))
            return cast(PreTrainedModel, AutoModelForCausalLM.from_config(settings, **options))
        except Exception as error:
            raise UserError(f"model.config: {self.config.get('model_type')} {failure(self.name, error)}") from error

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
            raise UserError(f"model.name={self.name} {failure(self.name, error)}") from error
        if not isinstance(base, str) or not base:
            raise UserError(f"model.name={self.name}: adapter_config.json does not name a base model")
        return base


class OpensPolicy(Protocol):
    """A description of a model, such as `CausalLM`."""

    def policy(self) -> PreTrainedModel:
        """Open or create the model."""


PolicySource = str | Path | PreTrainedModel | OpensPolicy | Callable[[], PreTrainedModel]
"""A hub id or folder, a model, a `CausalLM`, or a function that returns a model."""


def check_source(source: object) -> None:
    """Check the argument `policy` of `DPOModule`.

    Raises:
        UserError: It is neither a name, nor a model of transformers or peft, nor something that opens one.
    """
    if isinstance(source, nn.Module):
        _check_model(source)
    elif not (isinstance(source, str | Path) or callable(source) or hasattr(source, "policy")):
        raise UserError(
            f"policy={type(source).__name__} must be a hub id, a folder, a model of transformers, or a function that "
            "returns a model"
        )


def opened_policy(source: PolicySource) -> PreTrainedModel:
    """The model of `source`."""
    if isinstance(source, str | Path):
        source = CausalLM(str(source))
    if not isinstance(source, nn.Module):
        source = source() if callable(source) else source.policy()
        _check_model(source)
    return cast(PreTrainedModel, source)


def _check_model(model: object) -> None:
    if isinstance(model, torch._dynamo.OptimizedModule) or getattr(model, "_compiled_call_impl", None) is not None:
        raise UserError(
            "policy is compiled, and only parts of its forward pass are called: pass the model itself, and compile the "
            "LightningModule: torch.compile(DPOModule(...))"
        )
    if not isinstance(model, PreTrainedModel | PeftModel):
        raise UserError(
            f"policy={type(model).__name__} must be a model of transformers (a PreTrainedModel with an LM head) or of "
            "peft: its config and its head are used to compute log-probs"
        )
