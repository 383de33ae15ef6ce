"""Log-probabilities of completions and tokens, from one forward pass of a policy."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_dpo.batch import CompletionLogps, PreferenceBatch
from lightning_dpo.logps.forward import (
    base_model,
    call,
    lm_head,
    removed_on_exit,
    replaced_head_input,
    scored_logits,
    scored_positions,
)
from lightning_dpo.logps.fusion import can_fuse
from lightning_dpo.logps.lm_head import (
    TokenLogps,
    at_least_float32,
    head_logps,
    logit_transform,
    positions_at_once,
    token_statistics,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def completion_logps(policy: "PreTrainedModel", batch: PreferenceBatch, tokens: bool = False) -> CompletionLogps:
    """log π(y|x) of every completion of `batch`: one forward pass, and logits of scored positions only.

    Args:
        policy: A causal language model.
        batch: A batch of any layout.
        tokens: Also return the log-probs of tokens.
    """
    return summed(token_logps(policy, batch).logps, batch, tokens)


def summed(logps: Tensor, batch: PreferenceBatch, tokens: bool = False) -> CompletionLogps:
    """Log-probs of completions from those of their scored tokens.

    Args:
        logps: Log-probs of the scored tokens of `batch`. Shape: (scored,).
        batch: The batch.
        tokens: Also return the log-probs of tokens.
    """
    # `index_add` sums the tokens of each completion, in fp32 because `logps` is. It replaces a loop over completions.
    sums = logps.new_zeros(len(batch.completion_lengths)).index_add(0, batch.completion_index, logps)
    return CompletionLogps(sums, batch.completion_lengths, _by_completion(logps, batch) if tokens else None)


def rounded_to(policy: CompletionLogps, reference: CompletionLogps, tolerance: float) -> CompletionLogps:
    """`reference`, with the values of `policy` for the completions in which the two are equal up to rounding.

    Args:
        policy: Log-probs under the policy.
        reference: Log-probs of the same completions under the reference.
        tolerance: Maximum difference in nats, per square root of the number of tokens.
    """
    equal = (policy.sums.detach() - reference.sums).abs() <= tolerance * reference.lengths.sqrt()
    tokens = reference.token_logps
    if tokens is not None and policy.token_logps is not None:
        tokens = torch.where(equal[:, None], policy.token_logps.detach(), tokens)
    return CompletionLogps(torch.where(equal, policy.sums.detach(), reference.sums), reference.lengths, tokens)


def _by_completion(logps: Tensor, batch: PreferenceBatch) -> Tensor:
    """The scored tokens of each completion in a row, followed by zeros. Shape: (completions, longest)."""
    lengths = batch.completion_lengths.long()
    first = lengths.cumsum(0) - lengths  # scored tokens are in the order of completions
    position = torch.arange(len(logps), device=logps.device) - first[batch.completion_index]
    rows = logps.new_zeros(len(lengths), int(lengths.max()))
    return rows.index_put((batch.completion_index, position), logps)


def token_logps(policy: "PreTrainedModel", batch: PreferenceBatch, statistics: bool = False) -> TokenLogps:
    """Log-prob of every scored token of `batch`. If the architecture allows it, logits exist only in chunks.

    Args:
        policy: A causal language model.
        batch: A batch of any layout.
        statistics: Also compute entropy and collision probability of the next-token distributions.

    Raises:
        UserError: The model has no LM head, or it cannot be found.
    """
    if not can_fuse(policy):
        logits = at_least_float32(scored_logits(policy, batch))
        return TokenLogps(*token_statistics(logits, batch.target_ids, statistics))
    config = policy.config.get_text_config()
    head, transform, kept = lm_head(policy), logit_transform(config), positions_at_once(config.vocab_size)
    # The hook below has no return value for its caller, so it appends its result to this list.
    found: list[TokenLogps] = []

    def to_logps(hidden: Tensor) -> Tensor:
        scored = scored_positions(hidden, batch)
        found.append(head_logps(head, scored, batch.target_ids, transform, statistics, kept))
        return hidden[:1, :0]  # an empty input, so that the model's own call of its head costs nothing

    # The log-probs are computed inside the policy's forward pass and replace its output. FSDP gathers the weights of
    # the head for the forward pass and, by a hook on the output, for the backward pass. Outside, it would be a shard.
    # prepend=True: this hook must run before the one of FSDP, so that FSDP registers its gather for the backward pass
    # on the log-probs. It is on the module inside peft's wrapper, because `shard` wraps that module.
    output = base_model(policy).register_forward_hook(lambda *_: found[0], prepend=True)
    with replaced_head_input(head, to_logps), removed_on_exit(output):
        call(policy, batch)
    return found[0]
