"""Whether a model's prompts can be shared, found out before training by trying it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

import lightning_dpo.attention  # noqa: F401  registers it
from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.logps import completion_logps
from lightning_dpo.policy import evaluating
from lightning_dpo.precision import tolerance
from lightning_dpo.segments import ATTENTION
from lightning_dpo.step_checks import on_all_devices

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def share_prefixes(
    models: Sequence[PreTrainedModel], padded: PreferenceBatch, shared: PreferenceBatch, precision: str
) -> str | None:
    """Give `models` the attention over shared prompts, unless it would change their log-probs.

    Args:
        models: The policy, and its reference where that has weights of its own.
        padded: Some pairs.
        shared: The same pairs in the shared layout.
        precision: The Trainer's; it decides how close the log-probs of the two must come.

    Returns:
        None, or why the models were left as they are: a clause that begins with the architecture.
    """
    before = [model.config.get_text_config()._attn_implementation for model in models]
    reason = next(filter(None, map(_why_not, models)), None)
    if reason is None:
        for model in models:
            _set_attention(model, ATTENTION)
        reason = next(filter(None, (_difference(model, padded, shared, precision) for model in models)), None)
    agreed = on_all_devices(torch.tensor(reason is None, device=padded.input_ids.device))
    if agreed:
        return None
    for model, attention in zip(models, before, strict=True):
        _set_attention(model, attention)
    return f"{type(_base(models[0])).__name__}: {reason or 'another device found a difference'}"


def _why_not(model: PreTrainedModel) -> str | None:
    """What can be told without a forward pass."""
    config = model.config.get_text_config()
    attention = config._attn_implementation
    # transformers has no sdpa for some, Gemma 2 among them; for others, eager was asked for.
    if attention not in ("sdpa", ATTENTION) and not (attention == "eager" and not _base(model)._supports_sdpa):
        return f"its attention is {attention}, and the shared layout brings its own: leave model.attention=sdpa"
    if others := set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS:
        return f"it has layers of {' and '.join(sorted(others))}, which would see other completions"
    _set_attention(model, ATTENTION)
    if config._attn_implementation != ATTENTION:
        return "its attention does not go through transformers' AttentionInterface"
    return None


def _difference(model: PreTrainedModel, padded: PreferenceBatch, shared: PreferenceBatch, precision: str) -> str | None:
    """Whether the two layouts give other log-probs, or the shared one an error."""
    try:
        with evaluating(model), torch.no_grad():
            found, wanted = completion_logps(model, shared), completion_logps(model, padded)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        return " ".join(str(error).split())
    off = 0.0
    for side in ("chosen", "rejected"):
        mine, theirs = getattr(shared, side), getattr(padded, side)
        allowed = wanted.lengths[theirs].sqrt() * tolerance(precision)
        difference = (found.sums[mine] - wanted.sums[theirs]).abs()
        off = max(off, _worst(difference, difference <= allowed))
    return f"its log-probs differ by {off:.3g} nats between the two layouts" if off else None


def _worst(difference: Tensor, within: Tensor) -> float:
    """The largest difference where one is too large, else 0; infinity for what is no number."""
    return 0.0 if within.all() else float(difference.nan_to_num(torch.inf).max())


def _set_attention(model: PreTrainedModel, attention: str) -> None:
    """transformers warns where that is not possible; here it is asked for, and told in our own line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model.set_attn_implementation(attention)
    finally:
        transformers_logging.set_verbosity(verbosity)


def _base(model: PreTrainedModel) -> PreTrainedModel:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
