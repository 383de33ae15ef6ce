"""Which layout a policy's batches have: the one that was asked for, or the shared one where it changes nothing."""

import logging
from collections.abc import Callable, Sequence

from lightning import Trainer
from transformers import PreTrainedModel

from lightning_dpo.batch import MicroBatch
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout, LayoutName, Layouts
from lightning_dpo.shared_prefix.trial import share_prefixes

log = logging.getLogger(__name__)

TRIED = 2  # pairs by which layouts are compared: a single one would not show whether prompts see each other


def chosen_layout(
    asked: LayoutName,
    layouts: Layouts,
    longest: Callable[[], MicroBatch],
    models: Sequence[PreTrainedModel],
    trainer: Trainer,
) -> Layout:
    """The layout for batches of a policy. Called on all devices at once.

    Args:
        asked: `auto`, `shared` or `padded`.
        layouts: The two layouts.
        longest: Makes a micro-batch of the longest pairs, on which the two are compared.
        models: The policy, and its reference if that has weights of its own. Where the shared layout is chosen, they
            get its attention.
        trainer: Its device and precision are used.

    Raises:
        UserError: `shared` was asked for, and the policy cannot use it.
    """
    if asked == "padded":
        return layouts.padded
    pairs = longest()
    padded, shared = (layout(pairs).to(trainer.strategy.root_device) for layout in (layouts.padded, layouts.shared))
    with trainer.precision_plugin.forward_context():
        reason = share_prefixes(models, padded, shared, str(trainer.precision))
    if reason is None:
        log.info("Each prompt of a forward pass is computed once (data.layout=shared).")
        return layouts.shared
    if asked == "shared":
        raise UserError(f"data.layout=shared: {reason}; use data.layout=padded")
    log.warning("Each prompt is computed once per answer (data.layout=padded): %s.", reason)
    return layouts.padded
