"""The special tokens of a tokenizer."""

from transformers import PreTrainedTokenizerBase


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Ids and texts of the tokens that the tokenizer marks as special."""
    return {index: str(token.content) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
