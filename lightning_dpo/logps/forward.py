"""One forward pass of a policy over a batch of any layout, with the LM head applied to the scored positions only.

    input_ids -> decoder layers -> hidden states -> [pre-hook on the head] -> LM head -> soft-cap, scale -> logits

The pre-hook replaces the hidden states of all positions by those of the scored positions, (1, scored, hidden), so the
head and whatever the architecture does after it see nothing else.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedModel

ATTENTION = "shared_prefix"
"""The name under which transformers knows the attention over a stream, `shared_prefix/attention.py`."""

_STREAMING = ContextVar("streaming", default=False)


def is_streaming() -> bool:
    """Whether a model is being called on a stream: its attention must be passed `segments`, and needs no mask."""
    return _STREAMING.get()


def base_model(model: nn.Module) -> "PreTrainedModel":
    """The model without peft's wrapper, adapters in its layers; one without an adapter as it is."""
    unwrap = getattr(model, "get_base_model", None)
    return cast("PreTrainedModel", unwrap() if unwrap else model)


def attention_of(model: "PreTrainedModel") -> str:
    """The name of the attention implementation that the model uses."""
    return str(model.config.get_text_config()._attn_implementation)


def lm_head(policy: "PreTrainedModel") -> nn.Module:
    """The LM head.

    Raises:
        UserError: The model has none.
    """
    head = policy.get_output_embeddings()
    if head is None:
        raise UserError(f"{type(policy).__name__} has no LM head: DPO needs a causal language model")
    return head


def vocabulary(model: "PreTrainedModel") -> int:
    """Tokens that the model has an embedding for."""
    embedding = model.get_input_embeddings()
    return len(cast(Tensor, embedding.weight))


def scored_logits(policy: "PreTrainedModel", batch: PreferenceBatch) -> Tensor:
    """Next-token logits at the scored positions. Shape: (scored, vocabulary).

    `logits_to_keep` would keep the same columns of every row; what is scored differs from row to row. A hook leaves
    whatever the architecture does after the head (soft-caps, scales) in place.

    Raises:
        UserError: The model has no LM head, or one that cannot be found.
    """
    with replaced_head_input(lm_head(policy), lambda hidden: hidden.flatten(0, -2)[batch.score_index][None]):
        logits = call(policy, batch).logits
    if logits.shape[:-1] != (1, len(batch.score_index)):
        raise UserError(
            f"{type(policy).__name__} returned logits of shape {tuple(logits.shape)} for {len(batch.score_index)} "
            "scored positions: its LM head is not what get_output_embeddings() names, so it cannot be trained here"
        )
    return logits[0]


def call(policy: "PreTrainedModel", batch: PreferenceBatch) -> Any:
    """The policy's forward pass, as the batch's layout needs it.

    Raises:
        UserError: The batch has the shared layout, and the policy's attention is not the one for it.
    """
    if batch.segments is None:
        return policy(input_ids=batch.input_ids, use_cache=False)
    if attention_of(policy) != ATTENTION:
        raise UserError(
            f"a batch of the shared layout was given to a policy whose attention is {attention_of(policy)}: import "
            f"lightning_dpo.shared_prefix.attention and call policy.set_attn_implementation({ATTENTION!r})"
        )
    token = _STREAMING.set(True)
    try:
        return policy(
            input_ids=batch.input_ids, position_ids=batch.position_ids, segments=batch.segments, use_cache=False
        )
    finally:
        _STREAMING.reset(token)


@contextmanager
def replaced_head_input(head: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, the model's next call of its LM head gets `function(hidden states)`."""

    def replace(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hook.remove()  # `function` may call the head itself
        hidden, *rest = args
        return (function(hidden), *rest)

    hook = head.register_forward_pre_hook(replace)
    with removed_on_exit(hook):
        yield


@contextmanager
def removed_on_exit(hook: RemovableHandle) -> Iterator[None]:
    """Within, a hook is in place; afterwards it is not."""
    try:
        yield
    finally:
        hook.remove()
