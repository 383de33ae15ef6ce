"""The layout of a policy's batches: the configured one, or for `auto` the shared one if it gives the same results."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

import torch
from lightning import Trainer
from transformers import PreTrainedModel

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout, LayoutName, Layouts
from lightning_dpo.logps.forward import ATTENTION, base_model
from lightning_dpo.models.digests import code_digest, digest_of, store, stored, versions
from lightning_dpo.models.facts import model_facts
from lightning_dpo.models.probe import check_causal
from lightning_dpo.shared_prefix.trial import set_attention, share_prefixes
from lightning_dpo.training.rank_checks import on_all_devices

log = logging.getLogger(__name__)

TRIED = 2  # pairs that layouts are compared on: a single one would not show whether prompts attend to each other

# Tokens of a prompt, and of an answer around its first difference from the other one, in this comparison.
_OF_PROMPT, _OF_ANSWER = 64, 16


def chosen_layout(
    asked: LayoutName,
    layouts: Layouts,
    longest: Callable[[], MicroBatch],
    models: Sequence[PreTrainedModel],
    trainer: Trainer,
    copies: Sequence[PreTrainedModel] = (),
) -> Layout:
    """The layout for batches of a policy. A collective call.

    Args:
        asked: `auto`, `shared` or `padded`.
        layouts: The two layouts.
        longest: Returns a micro-batch of the longest pairs, on which the layouts are compared.
        models: The models to test: the policy, and the reference if it is another model. With the shared layout, their
            attention implementation is replaced.
        trainer: The Trainer, for its device and precision.
        copies: Copies of the policy, which are not tested.

    Raises:
        UserError: `shared` was requested, and the policy does not support it, or a model is not causal.
    """
    with trainer.precision_plugin.forward_context():
        for model in models:
            check_causal(model)
    if asked == "padded":
        return layouts.padded
    key, device = trial_key(models, trainer), trainer.strategy.root_device
    reason = None
    if not on_all_devices(torch.tensor(stored(key) is not None, device=device)):
        # Attention within a sliding window differs only where stretches are longer than the window.
        pairs = longest() if any(map(has_window, models)) else shortened(longest())
        padded, shared = (layout(pairs).to(device) for layout in (layouts.padded, layouts.shared))
        # Outside of a training step, Lightning does not enable autocast, and the test would use other kernels.
        with trainer.precision_plugin.forward_context():
            reason = share_prefixes(models, padded, shared, str(trainer.precision))
    if reason is None:
        for model in (*models, *copies):
            set_attention(model, ATTENTION)
        store(key, "shared")
        log.info("Prompts are shared: each is computed once per forward pass (data.layout=shared).")
        return layouts.shared
    if asked == "shared":
        raise UserError(f"data.layout=shared: {reason}; use data.layout=padded")
    log.warning("Prompts are not shared, but processed once per answer (data.layout=padded). Reason: %s.", reason)
    return layouts.padded


def trial_key(models: Sequence[PreTrainedModel], trainer: Trainer) -> str:
    """Digest of what decides whether the models support the shared layout, besides their weights."""
    facts = [
        str(trainer.precision),
        trainer.strategy.root_device.type,
        code_digest("shared_prefix", "logps", "layouts"),
    ]
    facts += [f"{name} {version}" for name, version in versions().items()]
    for model in models:
        adapters = {name: str(config) for name, config in getattr(model, "peft_config", {}).items()}
        facts += [type(base_model(model)).__name__, json.dumps(model_facts(model)), json.dumps(adapters)]
    return digest_of((fact.encode() for fact in facts), digits=64)


def has_window(model: PreTrainedModel) -> bool:
    """Whether the model has layers with sliding-window attention."""
    return getattr(model.config.get_text_config(), "sliding_window", None) is not None


def shortened(micro_batch: MicroBatch) -> MicroBatch:
    """The end of each prompt, and the part of the answers that contains their first difference."""
    pairs = []
    for pair in micro_batch.pairs:
        same = takewhile(lambda both: both[0] == both[1], zip(pair.chosen_ids, pair.rejected_ids, strict=False))
        start = max(0, len(list(same)) - _OF_ANSWER // 2)
        chosen, rejected = (ids[start : start + _OF_ANSWER] for ids in (pair.chosen_ids, pair.rejected_ids))
        # All of these tokens are scored, because masks of the data may exclude them.
        pairs.append(TokenizedPair(pair.index, pair.prompt_ids[-_OF_PROMPT:], chosen, rejected or chosen))
    return replace(micro_batch, pairs=pairs)
