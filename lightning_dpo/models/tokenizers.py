"""Tokenizers of models."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_dpo.errors import UserError
from lightning_dpo.models.failures import failure, not_found


def load_tokenizer(name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Open a tokenizer by hub id or folder. Without a pad token, it pads with its end-of-sequence token.

    Raises:
        UserError: The tokenizer cannot be opened, or it has no end-of-sequence token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:
        subject = f"model {name}" if not_found(name, error) else f"the tokenizer of {name}"
        raise UserError(f"{subject} {failure(name, error)}") from error
    return ready_tokenizer(tokenizer)


def ready_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Set the pad token to the end of sequence if there is none. Masks never depend on the pad token."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(f"tokenizer={tokenizer!r} must be a hub id, a folder, or a tokenizer of transformers")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path or 'the model'} has no end-of-sequence token, so answers would "
            "not end: set tokenizer.eos_token and save the tokenizer"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def largest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest id of a token that a text can contain: of all tokens except the pad token.

    `len(tokenizer)` is not enough, because a vocabulary can have holes.
    """
    ids = set(tokenizer.get_vocab().values())
    # A pad token that is nothing else is never embedded: batches are padded with the end-of-sequence token.
    return max(ids - ({tokenizer.pad_token_id} - {tokenizer.eos_token_id}), default=-1)
