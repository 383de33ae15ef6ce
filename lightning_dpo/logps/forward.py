"""One forward pass of a policy over a batch of any layout, with the LM head applied to the scored positions only.

    input_ids -> decoder layers -> hidden states -> [pre-hook on the head] -> LM head -> soft-cap, scale -> logits

The pre-hook replaces the hidden states of all positions by those of the scored positions, shape (1, scored, hidden).
The head, and what the architecture computes after it, then process only these.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedModel

ATTENTION = "shared_prefix"
"""The name of `shared_prefix/attention.py` in transformers' AttentionInterface."""

_STREAMING = ContextVar("streaming", default=False)
_ROUTERS = ContextVar("routers", default=False)


def is_streaming() -> bool:
    """Whether a model is currently called with a stream: its attention then needs `segments` and no mask."""
    return _STREAMING.get()


@contextmanager
def recording_routers() -> Iterator[None]:
    """Context in which forward passes with gradient also return the router logits of a mixture-of-experts model."""
    token = _ROUTERS.set(True)
    try:
        yield
    finally:
        _ROUTERS.reset(token)


def router_arguments(model: nn.Module, record: bool = False) -> dict[str, bool]:
    """The argument that makes a model return its router logits or not, whatever its config says; {} without routers.

    With the flag of the config, `generate` fails for padded prompts, in transformers itself.
    """
    has_routers = hasattr(base_model(model).config.get_text_config(), "output_router_logits")
    return {"output_router_logits": record} if has_routers else {}


def base_model(model: nn.Module) -> "PreTrainedModel":
    """The model inside peft's wrapper, with adapters in its layers; a model without an adapter unchanged."""
    unwrap = getattr(model, "get_base_model", None)
    return cast("PreTrainedModel", unwrap() if unwrap else model)


def attention_of(model: "PreTrainedModel") -> str:
    """The name of the model's attention implementation."""
    return str(model.config.get_text_config()._attn_implementation)


def lm_head(policy: "PreTrainedModel") -> nn.Module:
    """The LM head.

    Raises:
        UserError: The model has no LM head.
    """
    head = policy.get_output_embeddings()
    if head is None:
        raise UserError(f"{type(policy).__name__} has no LM head: DPO needs a causal language model")
    return head


def vocabulary(model: "PreTrainedModel") -> int:
    """Number of tokens that the model has an embedding for."""
    embedding = model.get_input_embeddings()
    return len(cast(Tensor, embedding.weight))


def scored_logits(policy: "PreTrainedModel", batch: PreferenceBatch) -> Tensor:
    """Next-token logits at the scored positions. Shape: (scored, vocabulary).

    transformers' `logits_to_keep` would keep the same columns in every row, but rows have different scored positions. A
    hook on the head keeps what the architecture computes after it (soft-caps, scales).

    Raises:
        UserError: The model has no LM head, or it cannot be found.
    """
    # (rows, length, hidden) becomes (rows · length, hidden), of which the scored positions are selected.
    with replaced_head_input(lm_head(policy), lambda hidden: scored_positions(hidden, batch)[None]):
        logits = call(policy, batch).logits
    if logits.shape[:-1] != (1, len(batch.score_index)):
        raise UserError(
            f"{type(policy).__name__} returned logits of shape {tuple(logits.shape)} for {len(batch.score_index)} "
            "scored positions: its LM head is not the module of get_output_embeddings(), which is not supported"
        )
    return logits[0]


def scored_positions(hidden: Tensor, batch: PreferenceBatch) -> Tensor:
    """The hidden states that predict scored tokens, shape (scored, hidden), of those of all positions.

    The last token of a prompt predicts the first one of each of its completions. `embedding` sums their gradients in a
    fixed order; indexing would sum them by atomic operations, in another order in every run.
    """
    return F.embedding(batch.score_index, hidden.flatten(0, -2))


def call(policy: "PreTrainedModel", batch: PreferenceBatch) -> Any:
    """The policy's forward pass with the arguments for the batch's layout.

    Raises:
        UserError: The batch has the shared layout, and the policy's attention does not support it.
    """
    # No attention mask is needed in the padded layout: padding is on the right, and causal attention ignores it.
    options = router_arguments(policy, _ROUTERS.get() and torch.is_grad_enabled())
    if batch.segments is None:
        return policy(input_ids=batch.input_ids, use_cache=False, **options)
    if attention_of(policy) != ATTENTION:
        raise UserError(
            f"a batch of the shared layout needs attention {ATTENTION!r}, and the policy has {attention_of(policy)!r}: "
            f"import lightning_dpo.shared_prefix.attention and call policy.set_attn_implementation({ATTENTION!r})"
        )
    # Attention layers read this flag, because transformers does not pass `segments` to the creation of masks.
    token = _STREAMING.set(True)
    try:
        return policy(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            segments=batch.segments,
            use_cache=False,
            **options,
        )
    finally:
        _STREAMING.reset(token)


@contextmanager
def replaced_head_input(head: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Context in which the input of the model's next call of its LM head is `function(hidden states)`."""

    def replace(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hook.remove()  # `function` may call the head, which must not call this hook again
        # A model that passes `hidden` by keyword would fail here; none in transformers does.
        hidden, *rest = args
        return (function(hidden), *rest)

    hook = head.register_forward_pre_hook(replace)
    with removed_on_exit(hook):
        yield


@contextmanager
def removed_on_exit(hook: RemovableHandle) -> Iterator[None]:
    """Context that removes a hook at its end."""
    try:
        yield
    finally:
        hook.remove()
