"""Preparation of a model for DPO: no dropout, an embedding for every token, and its modes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import vocabulary
from lightning_dpo.models.tokenizers import largest_id


def ready_policy(policy: PreTrainedModel) -> PreTrainedModel:
    """Prepare a model for DPO, in place: training mode, no dropout, no embedding exempt from training.

    With dropout, policy and reference would differ by noise before the first step. An adapter keeps its dropout, which
    only the policy has. Many architectures do not train the embedding of the pad token (`padding_idx`), which is wrong
    if the pad token is also used as another token.
    """
    # The key-value cache is useless in training, and incompatible with gradient checkpointing.
    for config in (policy.config, policy.config.get_text_config()):
        config.use_cache = False
    # Dropout modules of LoRA layers, which keep their probability.
    own = {id(dropout) for layer in policy.modules() for dropout in getattr(layer, "lora_dropout", {}).values()}
    # Some architectures read dropout from the config, others from module attributes, in each forward pass.
    for holder in (policy.config, policy.config.get_text_config(), *policy.modules()):
        for name, value in list(vars(holder).items()):
            if ("drop" in name or "pdrop" in name) and isinstance(value, float) and "lora" not in name:
                setattr(holder, name, 0.0)
        if isinstance(holder, nn.Dropout) and id(holder) not in own:
            holder.p = 0.0
    # nn.Embedding does not train the row `padding_idx`. Here it may be the EOS token, which is scored.
    cast(nn.Embedding, policy.get_input_embeddings()).padding_idx = None
    return policy.train()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context in which the model is in eval mode. It restores the mode of each submodule."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag


def check_fits(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Check that the policy has an embedding for every token and position.

    Raises:
        UserError: The tokenizer has more tokens, or `max_length` is larger than the number of positions.
    """
    positions: int | None = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise UserError(
            f"data.max_length={max_length}: the model supports {positions} tokens; set it to at most {positions}"
        )
    embeddings, largest = vocabulary(policy), largest_id(tokenizer)
    if largest >= embeddings:
        raise UserError(
            f"the tokenizer has a token with the id {largest} and the policy has {embeddings} embeddings: set "
            "model.tokenizer_name to the tokenizer of the model, or resize the model's embeddings and save it"
        )
