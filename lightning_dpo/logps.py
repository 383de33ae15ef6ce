"""Policy and batch in, the log-probability of every completion out, whatever layout the batch has."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.data.pairs import MicroBatch, TokenizedPair
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.lm_head import TokenLogps, at_least_float32, head_logps, logit_transform, token_statistics
from lightning_dpo.segments import ATTENTION, streaming

if TYPE_CHECKING:  # so that a wrong loss in a config is told without waiting for transformers
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_CHECKED = 16  # positions at which logits made of hidden states are compared with the model's own
_fusable: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class CompletionLogps:
    """Log-probabilities of completions, given their prompts.

    Attributes:
        sums: Sum over the scored tokens, in nats. Shape: (completions,), float32 in any precision below.
        lengths: Scored tokens. Shape: (completions,), float32.
    """

    sums: Tensor
    lengths: Tensor


def completion_logps(policy: "PreTrainedModel", batch: PreferenceBatch) -> CompletionLogps:
    """log π(y|x) of every completion of `batch`: one forward pass, and no logits but those of scored positions."""
    logps = token_logps(policy, batch).logps
    completions = len(batch.prompt_index)
    return CompletionLogps(
        sums=logps.new_zeros(completions).index_add(0, batch.completion_index, logps),
        lengths=torch.bincount(batch.completion_index, minlength=completions).to(torch.float32),
    )


def token_logps(policy: "PreTrainedModel", batch: PreferenceBatch, statistics: bool = False) -> TokenLogps:
    """Log-prob of every scored token of `batch`, without ever holding all logits, where the architecture allows that.

    Args:
        policy: A causal language model.
        batch: Of any layout.
        statistics: Entropy and collision probability of the next-token distributions too.

    Raises:
        UserError: The model has no LM head, or one that cannot be found.
    """
    if not can_fuse(policy):
        logits = at_least_float32(scored_logits(policy, batch))
        return TokenLogps(*token_statistics(logits, batch.target_ids, statistics))
    head, transform = _head(policy), logit_transform(policy.config.get_text_config())
    found: list[TokenLogps] = []

    def instead(hidden: Tensor) -> Tensor:
        scored = hidden.flatten(0, -2)[batch.score_index]
        found.append(head_logps(head, scored, batch.target_ids, transform, statistics))
        return hidden[:1, :0]

    # They are made within the policy's own forward pass and are its output: FSDP gathers the head's weights for that,
    # and once more before the gradient of its output is used.
    inner = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    with _handed(head, instead), _removed(inner.register_forward_hook(lambda *_: found[0], prepend=True)):
        _call(policy, batch)
    return found[0]


def scored_logits(policy: "PreTrainedModel", batch: PreferenceBatch) -> Tensor:
    """Next-token logits at the scored positions. Shape: (scored, vocabulary).

    `logits_to_keep` would keep the same columns of every row; what is scored differs from row to row. A hook leaves
    whatever the architecture does after the head (soft-caps, scales) in place.

    Raises:
        UserError: The model has no LM head, or one that cannot be found.
    """
    with _handed(_head(policy), lambda hidden: hidden.flatten(0, -2)[batch.score_index][None]):
        logits = _call(policy, batch).logits
    if logits.shape[:-1] != (1, len(batch.score_index)):
        raise UserError(
            f"{type(policy).__name__} returned logits of shape {tuple(logits.shape)} for {len(batch.score_index)} "
            "scored positions: its LM head is not what get_output_embeddings() names, so it cannot be trained here"
        )
    return logits[0]


def can_fuse(policy: "PreTrainedModel") -> bool:
    """Whether head and config alone give the policy's own logits; tried once, on 16 positions. If not, says so."""
    if policy not in _fusable:
        _fusable[policy] = _fuses(policy)
        if not _fusable[policy]:
            log.warning(
                "%s does more to its logits than its config tells: they are held whole, which takes more memory.",
                type(policy).__name__,
            )
    return _fusable[policy]


def _fuses(policy: "PreTrainedModel") -> bool:
    head, device = _head(policy), next(policy.parameters()).device
    ids = [place % policy.get_input_embeddings().num_embeddings for place in range(_CHECKED + 1)]
    pair = TokenizedPair(0, ids[:1], ids[1:], [])
    batch = PaddedLayout(0, chosen_only=True)(MicroBatch([pair], [True], 1, _CHECKED)).to(device)
    raw: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, args, output: raw.append(output))
    # An adapter's dropout draws; training goes on as if nothing had been drawn.
    with _removed(hook), torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        own = scored_logits(policy, batch)
    made = logit_transform(policy.config.get_text_config())(at_least_float32(raw[0][0]))
    tolerance = 4 * torch.finfo(own.dtype).eps
    return torch.allclose(made, at_least_float32(own), rtol=tolerance, atol=tolerance * float(own.abs().max()))


def _head(policy: "PreTrainedModel") -> nn.Module:
    head = policy.get_output_embeddings()
    if head is None:
        raise UserError(f"{type(policy).__name__} has no LM head: DPO needs a causal language model")
    return head


def _call(policy: "PreTrainedModel", batch: PreferenceBatch) -> Any:
    if batch.segments is None:
        return policy(input_ids=batch.input_ids, use_cache=False)
    attention = policy.config.get_text_config()._attn_implementation
    if attention != ATTENTION:
        raise UserError(
            f"a batch of the shared layout was given to a policy whose attention is {attention}: import "
            f"lightning_dpo.attention and call policy.set_attn_implementation({ATTENTION!r})"
        )
    with streaming():
        return policy(
            input_ids=batch.input_ids, position_ids=batch.position_ids, segments=batch.segments, use_cache=False
        )


@contextmanager
def _handed(head: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, the model's call of its LM head is handed `function(hidden states)`."""

    def hand(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hook.remove()  # `function` may call the head itself
        hidden, *rest = args
        return (function(hidden), *rest)

    hook = head.register_forward_pre_hook(hand)
    with _removed(hook):
        yield


@contextmanager
def _removed(hook: RemovableHandle) -> Iterator[None]:
    """Within, a hook is in place; afterwards it is not."""
    try:
        yield
    finally:
        hook.remove()
