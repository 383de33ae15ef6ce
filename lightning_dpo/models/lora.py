"""LoRA adapters (https://arxiv.org/abs/2106.09685) with peft."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from lightning_dpo.errors import UserError
from lightning_dpo.models.adapter import AdapterFactory
from lightning_dpo.models.opening import other_parts
from lightning_dpo.printable import one_line

# Of peft's initializations those that need nothing but the weights, and that give the same adapter every time.
_INITIALIZATIONS = (True, "gaussian", "orthogonal", "pissa", "olora")


@dataclass(frozen=True)
class LoRA(AdapterFactory):
    """Trains a new low-rank adapter. The frozen model without it is the reference.

    Args:
        r: Rank.
        alpha: The adapter's output is scaled by `alpha / r`.
        dropout: Dropout of the adapter's input during training.
        target_modules: Names of the linear layers that get an adapter; `all-linear`: all except the LM head.
        modules_to_save: Modules that are trained entirely.
        exclude_modules: Names of layers without an adapter, as a list or as a regular expression of whole names; None:
            only the modules of a multimodal model that text-only inputs do not use.
        target_parameters: Names of parameters that get an adapter, such as fused experts; None: none.
        rank_pattern: Ranks of individual layers by name, which replace `r`.
        alpha_pattern: Alpha of individual layers by name, which replaces `alpha`.
        init_lora_weights: peft's initialization: True, `gaussian`, `orthogonal`, `pissa` or `olora`.
        use_rslora: Scale the adapter's output by `alpha / sqrt(r)` (https://arxiv.org/abs/2312.03732).
        use_dora: Decompose weights into magnitude and direction (https://arxiv.org/abs/2402.09353).
        merge: Also export the model with the adapter merged into it.
    """

    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: str | Sequence[str] = "all-linear"
    modules_to_save: Sequence[str] | None = None
    exclude_modules: str | Sequence[str] | None = None
    target_parameters: Sequence[str] | None = None
    rank_pattern: Mapping[str, int] | None = None
    alpha_pattern: Mapping[str, float] | None = None
    init_lora_weights: bool | str = True
    use_rslora: bool = False
    use_dora: bool = False
    merge: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r must be at least 1, got {self.r!r}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive, got {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        for name, value in {**(self.rank_pattern or {}), **(self.alpha_pattern or {})}.items():
            if not value > 0:
                raise ValueError(f"rank_pattern and alpha_pattern must have positive values, got {name}: {value!r}")
        if self.init_lora_weights not in _INITIALIZATIONS or type(self.init_lora_weights) not in (bool, str):
            known = ", ".join(str(name).lower() for name in _INITIALIZATIONS)
            raise ValueError(f"init_lora_weights must be one of {known}, got {self.init_lora_weights!r}")

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
            target_modules=_list_or_text(self.target_modules),
            exclude_modules=self._excluded(policy),
            target_parameters=list(self.target_parameters) if self.target_parameters else None,
            modules_to_save=list(self.modules_to_save) if self.modules_to_save else None,
            rank_pattern=dict(self.rank_pattern or {}),
            alpha_pattern=dict(self.alpha_pattern or {}),
            init_lora_weights=cast(Any, self.init_lora_weights),
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            task_type="CAUSAL_LM",
        )
        modules = {name.rpartition(".")[2] for name, _ in policy.named_modules()}
        if missing := set(self.modules_to_save or ()) - modules:
            raise UserError(f"adapter.modules_to_save: the model has no module {', '.join(sorted(missing))}")
        try:
            with warnings.catch_warnings(record=True) as caught:
                adapted = cast(PreTrainedModel, get_peft_model(policy, config))
        except Exception as error:  # peft raises many kinds for options that do not fit the model
            raise UserError(f"adapter: {one_line(str(error))}") from error
        self._check_names([one_line(str(warning.message)) for warning in caught])
        return adapted

    def _check_names(self, warned: list[str]) -> None:
        """Check that all names of the options match something. peft only warns about them, and about other things."""
        patterns = [repr(name) for name in (*(self.rank_pattern or {}), *(self.alpha_pattern or {}))]
        options = ["exclude_modules="] * bool(self.exclude_modules) + ["target_parameters="] * bool(
            self.target_parameters
        )
        for text in warned:
            if any(name in text for name in (*patterns, *options)):
                raise UserError(f"adapter: {text}")

    def _excluded(self, policy: PreTrainedModel) -> str | list[str] | None:
        """`exclude_modules`, and the parts of a multimodal model that text does not reach."""
        others = other_parts(policy)
        given = self.exclude_modules or []
        if not others:
            return _list_or_text(given) or None
        # Names in a list match themselves and as suffixes, and a regular expression matches whole names.
        own = [given] if isinstance(given, str) else [rf"(.*\.)?{re.escape(name)}" for name in given]
        return "|".join([*own, *(rf"{re.escape(name)}(\..*)?" for name in others)])


def _list_or_text(names: str | Sequence[str]) -> str | list[str]:
    return names if isinstance(names, str) else list(names)
