"""A test before training of whether a model supports the shared layout."""

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
from lightning_dpo.models.preparation import evaluating
from lightning_dpo.training.rank_checks import on_all_devices

_GRADIENTS = 0.1  # maximum relative difference of gradient norms; rounding in bf16 is smaller
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def share_prefixes(
    models: Sequence[PreTrainedModel], padded: PreferenceBatch, shared: PreferenceBatch, precision: str
) -> str | None:
    """Switch `models` to the attention for shared prompts, unless it would change their log-probs.

    Args:
        models: The policy, and the reference if it has its own weights.
        padded: Some pairs in the padded layout.
        shared: The same pairs in the shared layout.
        precision: Precision of the Trainer; it decides how close the log-probs of the two must be.

    Returns:
        None, or the reason why the models are unchanged: a clause that starts with the architecture.
    """
    before = [attention_of(model) for model in models]
    agreed = False
    try:
        reasons = [_why_not(model) for model in models]
        if not any(reasons):
            # All models are tested even if the first one fails: with FSDP, all devices take part in each forward pass.
            reasons = [_difference(model, padded, shared, precision) for model in models]
        agreed = on_all_devices(torch.tensor(not any(reasons), device=padded.input_ids.device))
    finally:
        for model, attention in zip(models, before, strict=True):
            set_attention(model, ATTENTION if agreed else attention)
    if agreed:
        return None
    found = ((model, reason) for model, reason in zip(models, reasons, strict=True) if reason)
    model, reason = next(found, (models[0], "another device found a difference"))
    return f"{type(base_model(model)).__name__}: {reason}"


def _why_not(model: PreTrainedModel) -> str | None:
    """The reason that is known without a forward pass, or None."""
    config = model.config.get_text_config()
    attention = attention_of(model)
    # Some architectures, such as Gemma 2, have no sdpa in transformers. For others, the user set eager.
    if attention not in ("sdpa", ATTENTION) and not (attention == "eager" and not base_model(model)._supports_sdpa):
        return f"its attention is {attention}, and the shared layout replaces it: set model.attention=sdpa"
    if others := set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS:
        return f"it has layers of {' and '.join(sorted(others))}, which would mix completions"
    set_attention(model, ATTENTION)
    # transformers does not raise for architectures without AttentionInterface, so read the name back.
    if attention_of(model) != ATTENTION:
        return "its attention does not go through transformers' AttentionInterface"
    return None


def _difference(model: PreTrainedModel, padded: PreferenceBatch, shared: PreferenceBatch, precision: str) -> str | None:
    """How log-probs or gradients of the two layouts differ, or the error of the shared one; None if they agree."""
    try:
        with evaluating(model), torch.no_grad():
            found, wanted = completion_logps(model, shared), completion_logps(model, padded)
        norms = [_gradient_norm(model, batch) for batch in (shared, padded)]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an architecture may fail in any way with a layout that it was not written for
        inner: nn.Module = base_model(model)
        if isinstance(inner, FSDPModule):
            inner.reset_iter_state()  # after an interrupted forward pass, FSDP would reject the next one
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
        return f"its gradients differ between the two layouts: their norms are {norms[0]:.3g} and {norms[1]:.3g}"
    return None


def _worst(difference: Tensor, within: Tensor) -> float:
    """0 if all differences are within the tolerance, otherwise the largest; infinity for NaN."""
    return 0.0 if within.all() else float(difference.nan_to_num(torch.inf).max())


def _gradient_norm(model: PreTrainedModel, batch: PreferenceBatch) -> float:
    """Norm of the gradient of the summed log-probs with respect to the first trainable weight.

    Comparing only log-probs is not enough, because fused kernels have their own backward pass. 0 if the gradient
    cannot be computed without affecting training: for a sharded or frozen model, or in validation.
    """
    table = model.get_input_embeddings().weight
    # The first weight after the embedding: its gradient has passed through all attention layers.
    weights = [weight for weight in model.parameters() if weight.requires_grad and weight is not table]
    if torch.is_inference_mode_enabled() or isinstance(base_model(model), FSDPModule) or not weights:
        return 0.0
    with evaluating(model), torch.enable_grad():
        sums = completion_logps(model, batch).sums
        of_pairs = sums[
            torch.cat([batch.chosen, batch.rejected])
        ]  # once per pair, so that both layouts sum the same terms
        (gradient,) = torch.autograd.grad(of_pairs.sum(), weights[0])
    return float(gradient.norm())


def set_attention(model: PreTrainedModel, attention: str) -> None:
    """Set the attention implementation without transformers' warning. The caller reports failures."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model.set_attn_implementation(attention)
    finally:
        transformers_logging.set_verbosity(verbosity)
