"""Policy and batch in, the log-probability of every completion out: the only reader of a layout's differences."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError

if TYPE_CHECKING:  # so that a wrong loss in a config is told without waiting for transformers
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class CompletionLogps:
    """Log-probabilities of completions, given their prompts.

    Attributes:
        sums: Sum over the scored tokens, in nats. Shape: (completions,), float32 whatever the compute precision.
        lengths: Scored tokens. Shape: (completions,), float32.
    """

    sums: Tensor
    lengths: Tensor


def completion_logps(policy: "PreTrainedModel", batch: PreferenceBatch) -> CompletionLogps:
    """log π(y|x) of every completion of `batch`: one forward pass, and no logits but those of scored positions."""
    logits = scored_logits(policy, batch)
    token_logps = -F.cross_entropy(logits.float(), batch.target_ids, reduction="none")
    completions = len(batch.prompt_index)
    zeros = token_logps.new_zeros(completions)
    return CompletionLogps(
        sums=zeros.index_add(0, batch.completion_index, token_logps),
        lengths=torch.bincount(batch.completion_index, minlength=completions).to(torch.float32),
    )


def scored_logits(policy: "PreTrainedModel", batch: PreferenceBatch) -> Tensor:
    """Next-token logits at the scored positions. Shape: (scored, vocabulary).

    Raises:
        UserError: The model has no LM head, or one that cannot be found.
    """
    head = policy.get_output_embeddings()
    if head is None:
        raise UserError(f"{type(policy).__name__} has no LM head: DPO needs a causal language model")
    with _only(batch.score_index, head):
        logits = policy(input_ids=batch.input_ids, use_cache=False).logits
    if logits.shape[:-1] != (1, len(batch.score_index)):
        raise UserError(
            f"{type(policy).__name__} returned logits of shape {tuple(logits.shape)} for {len(batch.score_index)} "
            "scored positions: its LM head is not what get_output_embeddings() names, so it cannot be trained here"
        )
    return logits[0]


@contextmanager
def _only(score_index: Tensor, head: torch.nn.Module) -> Iterator[None]:
    """Within, the LM head sees the hidden states of `score_index` alone.

    `logits_to_keep` would keep the same columns of every row; what is scored differs from row to row. A hook leaves
    whatever the architecture does after the head (soft-caps, scales) in place.
    """

    def select(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = args
        return (hidden.flatten(0, -2)[score_index][None], *rest)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
