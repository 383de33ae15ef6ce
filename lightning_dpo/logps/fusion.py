"""Whether a policy's logits can be computed from hidden states, head and config: tested once, on 16 positions."""

import logging
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.logps.forward import lm_head, removed_on_exit, scored_logits, vocabulary
from lightning_dpo.logps.lm_head import at_least_float32, logit_transform

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_CHECKED = 16  # positions
# By model, so that the test runs once per model and does not keep models in memory.
_fusable: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def can_fuse(policy: "PreTrainedModel") -> bool:
    """Whether head and config reproduce the policy's own logits. If not, a warning is logged."""
    if policy not in _fusable:
        _fusable[policy] = _fuses(policy)
        if not _fusable[policy]:
            log.warning(
                "The logits of %s cannot be computed from its head and config, so they are not split into chunks. This "
                "needs more memory.",
                type(policy).__name__,
            )
    return _fusable[policy]


def _fuses(policy: "PreTrainedModel") -> bool:
    device = next(policy.parameters()).device
    ids = [index % vocabulary(policy) for index in range(_CHECKED + 1)]
    # One pair in the padded layout, with any tokens: only the relation of hidden states and logits matters.
    pair = TokenizedPair(0, ids[:1], ids[1:], [])
    batch = PaddedLayout(0, chosen_only=True)(MicroBatch([pair], [True], 1, _CHECKED)).to(device)
    raw: list[Tensor] = []
    # `raw` is the output of the head and `own` that of the model. If the config explains the difference, logits can be
    # computed in chunks.
    hook = lm_head(policy).register_forward_hook(lambda module, args, output: raw.append(output))
    # An adapter's dropout uses random numbers. The fork keeps the test from changing those of the training.
    with removed_on_exit(hook), torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        own = scored_logits(policy, batch)
    made = logit_transform(policy.config.get_text_config())(at_least_float32(raw[0][0]))
    # Both sides use the same hidden states, so they differ only by rounding after the head.
    tolerance = 4 * torch.finfo(own.dtype).eps
    return torch.allclose(made, at_least_float32(own), rtol=tolerance, atol=tolerance * float(own.abs().max()))
