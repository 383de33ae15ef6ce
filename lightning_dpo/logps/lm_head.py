"""Log-probs straight from hidden states: the LM head and log-softmax a chunk of positions at a time.

Neither (scored, vocabulary) logits nor their gradient ever exist whole: backward computes each chunk's logits again.
PyTorch's `F.linear_cross_entropy` and Liger's fused losses save them as well, but compute the gradient in the forward
pass, for which the factor of every token must be known then. Here it is not: the loss of a pair, and with it the factor
of its tokens, follows from the sums of both of its completions.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:  # so that a wrong loss in a config is told without waiting for transformers
    from transformers import PreTrainedConfig

CHUNK = 512  # positions whose logits exist at once


class TokenLogps(NamedTuple):
    """Of every scored token, in nats; float32 in any precision below.

    Attributes:
        logps: log π(token | what precedes it). Shape: (scored,).
        entropy: −Σ_v p(v) log p(v) of the distribution that it was scored under; None unless asked for.
            Shape: (scored,).
        log_collision: log Σ_v p(v)², the log-probability that two draws from that agree; None unless asked for.
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
) -> TokenLogps:
    """Log-probs of `target_ids`, a chunk of positions at a time.

    Args:
        head: The LM head, hidden states to logits; adapters on it included.
        hidden: Shape: (scored, hidden).
        target_ids: Shape: (scored,).
        transform: What the model does to its logits after the head.
        statistics: Entropy and collision probability too.
    """

    def of_chunk(states: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return token_statistics(transform(at_least_float32(head(states))), targets, statistics)

    chunks = list(zip(hidden.split(CHUNK), target_ids.split(CHUNK), strict=True))
    if torch.is_grad_enabled():
        found = [checkpoint(of_chunk, *chunk, use_reentrant=False) for chunk in chunks]
    else:
        found = [of_chunk(*chunk) for chunk in chunks]
    return TokenLogps(*map(torch.cat, zip(*found, strict=True)))


def token_statistics(logits: Tensor, target_ids: Tensor, statistics: bool) -> tuple[Tensor, ...]:
    """`TokenLogps` as a tuple. Shape of `logits`: (positions, vocabulary)."""
    if not statistics:
        return (_TargetLogps.apply(logits, target_ids),)
    logps = logits.log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)
    return logps.gather(1, target_ids[:, None])[:, 0], entropy, (2 * logps).logsumexp(-1)


class _TargetLogps(torch.autograd.Function):
    """log softmax(logits)[target], with the gradient g · (onehot(target) − softmax(logits)).

    PyTorch's cross-entropy fills a tensor of the logits' size with zeros first; without, this takes half its time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target_ids: Tensor) -> Tensor:
        logps = logits.log_softmax(-1)
        ctx.save_for_backward(logps, target_ids)
        return logps.gather(1, target_ids[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, factors: Tensor) -> tuple[Tensor, None]:
        logps, target_ids = ctx.saved_tensors
        negative = logps.exp()
        negative.scatter_add_(1, target_ids[:, None], negative.new_full((len(target_ids), 1), -1.0))
        return negative.mul_(-factors[:, None]), None


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits in which a log-softmax loses nothing."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def logit_transform(config: "PreTrainedConfig") -> Callable[[Tensor], Tensor]:
    """What a model with this config does to its logits after the LM head.

    A scale (Granite, Cohere, Falcon-H1), a soft-cap (Gemma 2 and 3), nothing; whether that is all, `fusion.py` checks
    against the model's own logits.
    """
    scale = getattr(config, "logit_scale", None) or 1.0
    scale *= getattr(config, "lm_head_multiplier", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    cap = getattr(config, "final_logit_softcapping", None)

    def transform(logits: Tensor) -> Tensor:
        scaled = logits if scale == 1 else logits * scale
        return scaled if cap is None else cap * torch.tanh(scaled / cap)

    return transform
