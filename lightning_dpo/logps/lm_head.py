"""Log-probs from hidden states: LM head and log-softmax on a chunk of positions at a time.

The whole logits, shape (scored, vocabulary), and their gradient never exist: the backward pass recomputes the logits of
each chunk. PyTorch's `F.linear_cross_entropy` and Liger's fused losses avoid the logits too. But they compute the
gradient in the forward pass, when the weight of every token's gradient must be known. Here it is not known yet: it
depends on the loss of the pair, and therefore on the sums of both completions.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:  # transformers takes seconds to import, and losses do not need it
    from transformers import PreTrainedConfig

CHUNK = 512  # positions whose logits exist at once, if those of all positions are large
_SMALL = 64 << 20  # bytes


class TokenLogps(NamedTuple):
    """Log-probs of scored tokens in nats, float32 for any lower precision.

    Attributes:
        logps: log π(token | preceding tokens). Shape: (scored,).
        entropy: −Σ_v p(v) log p(v) of the next-token distribution; None unless requested. Shape: (scored,).
        log_collision: log Σ_v p(v)², the log-probability that two samples of it are equal; None unless requested.
            Shape: (scored,).
    """

    logps: Tensor
    entropy: Tensor | None = None
    log_collision: Tensor | None = None


def head_logps(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    target_ids: Tensor,
    transform: Callable[[Tensor], Tensor],
    statistics: bool = False,
    kept: int = 0,
) -> TokenLogps:
    """Log-probs of `target_ids`, a chunk of positions at a time unless the logits are small.

    Args:
        head: The LM head, including adapters.
        hidden: Hidden states of the scored positions. Shape: (scored, hidden).
        target_ids: The scored tokens. Shape: (scored,).
        transform: The model's function of the logits after the head.
        statistics: Also compute entropy and collision probability.
        kept: Maximum number of positions whose log-probs over the vocabulary are kept for the backward pass. With more,
            they are computed again.
    """

    def of_chunk(states: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return token_statistics(transform(at_least_float32(head(states))), targets, statistics)

    if len(target_ids) <= kept:
        return TokenLogps(*of_chunk(hidden, target_ids))
    chunks = list(zip(hidden.split(CHUNK), target_ids.split(CHUNK), strict=True))
    if torch.is_grad_enabled():
        # Checkpointing keeps only hidden states and targets of a chunk. Its logits are recomputed in the backward pass.
        found = [checkpoint(of_chunk, *chunk, use_reentrant=False) for chunk in chunks]
    else:
        found = [of_chunk(*chunk) for chunk in chunks]
    return TokenLogps(*map(torch.cat, zip(*found, strict=True)))


def positions_at_once(vocabulary: int) -> int:
    """Number of positions whose log-probs over the vocabulary may exist at once: a chunk, or more if they are small."""
    return max(CHUNK, _SMALL // (4 * vocabulary))


def token_statistics(logits: Tensor, target_ids: Tensor, statistics: bool) -> tuple[Tensor, ...]:
    """`TokenLogps` as a tuple. Shape of `logits`: (positions, vocabulary)."""
    if not statistics:
        return (_TargetLogps.apply(logits, target_ids),)
    logps = logits.log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)
    return logps.gather(1, target_ids[:, None])[:, 0], entropy, (2 * logps).logsumexp(-1)


class _TargetLogps(torch.autograd.Function):
    """log softmax(logits)[target], with the gradient g · (onehot(target) − softmax(logits)).

    PyTorch's cross-entropy first fills a tensor of the logits' size with zeros. This version takes half its time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target_ids: Tensor) -> Tensor:
        logps = logits.log_softmax(-1)
        ctx.save_for_backward(logps, target_ids)
        return logps.gather(1, target_ids[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, factors: Tensor) -> tuple[Tensor, None]:
        logps, target_ids = ctx.saved_tensors
        # In place, because this is the largest tensor of the backward pass: g · (onehot − p) = −g · (p − onehot).
        negative = logps.exp()
        negative.scatter_add_(1, target_ids[:, None], negative.new_full((len(target_ids), 1), -1.0))
        return negative.mul_(-factors[:, None]), None


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits in float32 or a higher precision, for a log-softmax without rounding errors."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def logit_transform(config: "PreTrainedConfig") -> Callable[[Tensor], Tensor]:
    """The function that a model with this config applies to its logits after the LM head.

    A scale (Granite, Cohere, Falcon-H1), a soft-cap (Gemma 2 and 3), or the identity. `fusion.py` checks the result
    against the model's own logits.
    """
    # The names that transformers uses: Cohere multiplies by logit_scale, Granite divides by logits_scaling.
    scale = getattr(config, "logit_scale", None) or 1.0
    scale *= getattr(config, "lm_head_multiplier", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    cap = getattr(config, "final_logit_softcapping", None)

    def transform(logits: Tensor) -> Tensor:
        scaled = logits if scale == 1 else logits * scale
        return scaled if cap is None else cap * torch.tanh(scaled / cap)

    return transform
