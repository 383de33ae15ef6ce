"""The layout of a policy's batches: the configured one, or for `auto` the shared one if it gives the same results."""

import logging
from collections.abc import Callable, Sequence

from lightning import Trainer
from transformers import PreTrainedModel

from lightning_dpo.batch import MicroBatch
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout, LayoutName, Layouts
from lightning_dpo.models.probe import check_causal
from lightning_dpo.shared_prefix.trial import share_prefixes

log = logging.getLogger(__name__)

TRIED = 2  # pairs that layouts are compared on: a single one would not show whether prompts attend to each other


def chosen_layout(
    asked: LayoutName,
    layouts: Layouts,
    longest: Callable[[], MicroBatch],
    models: Sequence[PreTrainedModel],
    trainer: Trainer,
) -> Layout:
    """The layout for batches of a policy. A collective call.

    Args:
        asked: `auto`, `shared` or `padded`.
        layouts: The two layouts.
        longest: Returns a micro-batch of the longest pairs, on which the layouts are compared.
        models: The policy, and the reference if it has its own weights. With the shared layout, their attention
            implementation is replaced.
        trainer: The Trainer, for its device and precision.

    Raises:
        UserError: `shared` was requested, and the policy does not support it, or a model is not causal.
    """
    with trainer.precision_plugin.forward_context():
        for model in models:
            check_causal(model)
    if asked == "padded":
        return layouts.padded
    pairs = longest()
    padded, shared = (layout(pairs).to(trainer.strategy.root_device) for layout in (layouts.padded, layouts.shared))
    # Outside of a training step, Lightning does not enable autocast, and the test would use other kernels.
    with trainer.precision_plugin.forward_context():
        reason = share_prefixes(models, padded, shared, str(trainer.precision))
    if reason is None:
        log.info("Prompts are shared: each is computed once per forward pass (data.layout=shared).")
        return layouts.shared
    if asked == "shared":
        raise UserError(f"data.layout=shared: {reason}; use data.layout=padded")
    log.warning("Prompts are not shared, but processed once per answer (data.layout=padded). Reason: %s.", reason)
    return layouts.padded
