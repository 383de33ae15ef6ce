"""Whether a model's prompts can be shared, found out before training by trying it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

import lightning_dpo.shared_prefix.attention  # noqa: F401  registers it
from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.logps.forward import ATTENTION, attention_of, base_model
from lightning_dpo.logps.tolerance import tolerance
from lightning_dpo.models.causal_lm import evaluating
from lightning_dpo.training.rank_checks import on_all_devices

_GRADIENTS = 0.1  # of its norm, which bf16 rounds to less than that
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
    before = [attention_of(model) for model in models]
    agreed = False
    try:
        reasons = [_why_not(model) for model in models]
        if not any(reasons):
            # Of every model, whatever the first one gave: on several devices, all take part in each forward pass.
            reasons = [_difference(model, padded, shared, precision) for model in models]
        agreed = on_all_devices(torch.tensor(not any(reasons), device=padded.input_ids.device))
    finally:
        for model, attention in zip(models, before, strict=True):
            _set_attention(model, ATTENTION if agreed else attention)
    if agreed:
        return None
    found = ((model, reason) for model, reason in zip(models, reasons, strict=True) if reason)
    model, reason = next(found, (models[0], "another device found a difference"))
    return f"{type(base_model(model)).__name__}: {reason}"


def _why_not(model: PreTrainedModel) -> str | None:
    """What can be told without a forward pass."""
    config = model.config.get_text_config()
    attention = attention_of(model)
    # transformers has no sdpa for some, Gemma 2 among them; for others, eager was asked for.
    if attention not in ("sdpa", ATTENTION) and not (attention == "eager" and not base_model(model)._supports_sdpa):
        return f"its attention is {attention}, and the shared layout brings its own: leave model.attention=sdpa"
    if others := set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS:
        return f"it has layers of {' and '.join(sorted(others))}, which would see other completions"
    _set_attention(model, ATTENTION)
    if attention_of(model) != ATTENTION:
        return "its attention does not go through transformers' AttentionInterface"
    return None


def _difference(model: PreTrainedModel, padded: PreferenceBatch, shared: PreferenceBatch, precision: str) -> str | None:
    """Whether the two layouts give other log-probs or gradients, or the shared one an error."""
    try:
        with evaluating(model), torch.no_grad():
            found, wanted = completion_logps(model, shared), completion_logps(model, padded)
        norms = [_gradient_norm(model, batch) for batch in (shared, padded)]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture makes of a layout that it was not written for
        inner: nn.Module = base_model(model)
        if isinstance(inner, FSDPModule):
            inner.reset_iter_state()
        return " ".join(str(error).split())
    off = 0.0
    for side in ("chosen", "rejected"):
        mine, theirs = getattr(shared, side), getattr(padded, side)
        allowed = wanted.lengths[theirs].sqrt() * tolerance(precision)
        difference = (found.sums[mine] - wanted.sums[theirs]).abs()
        off = max(off, _worst(difference, difference <= allowed))
    if off:
        return f"its log-probs differ by {off:.3g} nats between the two layouts"
    if abs(norms[0] - norms[1]) > _GRADIENTS * norms[1]:
        return f"its gradients differ between the two layouts: a norm of {norms[0]:.3g} and of {norms[1]:.3g}"
    return None


def _worst(difference: Tensor, within: Tensor) -> float:
    """The largest difference where one is too large, else 0; infinity for what is no number."""
    return 0.0 if within.all() else float(difference.nan_to_num(torch.inf).max())


def _gradient_norm(model: PreTrainedModel, batch: PreferenceBatch) -> float:
    """Gradient norm of the summed log-probs with respect to one weight below all attention layers.

    Checked separately, because fused kernels have their own backward pass.

    0 where no gradient can be had without touching those of training: of a sharded or frozen model, in validation.
    """
    table = model.get_input_embeddings().weight
    weights = [weight for weight in model.parameters() if weight.requires_grad and weight is not table]
    if torch.is_inference_mode_enabled() or isinstance(base_model(model), FSDPModule) or not weights:
        return 0.0
    with evaluating(model), torch.enable_grad():
        sums = completion_logps(model, batch).sums
        of_pairs = sums[torch.cat([batch.chosen, batch.rejected])]  # as often as pairs have them, in either layout
        (gradient,) = torch.autograd.grad(of_pairs.sum(), weights[0])
    return float(gradient.norm())


def _set_attention(model: PreTrainedModel, attention: str) -> None:
    """transformers warns where that is not possible; here it is asked for, and told in our own line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model.set_attn_implementation(attention)
    finally:
        transformers_logging.set_verbosity(verbosity)
