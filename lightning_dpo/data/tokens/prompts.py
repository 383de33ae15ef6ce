"""Validation prompts that the policy answers, and how its answers may end."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.tokens.special_tokens import special_tokens


def sample_prompts(tokens: Dataset, count: int, max_length: int, max_new_tokens: int) -> tuple[list[list[int]], int]:
    """`count` prompts as token ids, spread over the data; again from the first where there are fewer.

    Args:
        tokens: Pairs.
        count: How many.
        max_length: Tokens that prompt and answer may have together.
        max_new_tokens: Tokens that an answer should have room for.

    Returns:
        The prompts, and how many tokens may follow: `max_new_tokens`, or what `max_length` leaves room for.
    """
    prompts = list(dict.fromkeys(map(tuple, tokens["prompt_ids"][:])))
    room = max(max_length - min(map(len, prompts)), 1)
    # Half of the room, where all of it would leave the shortest prompts alone.
    following = min(max_new_tokens, max(max_length // 2, 1), room)
    short = [list(prompt) for prompt in prompts if len(prompt) + following <= max_length]
    few = min(count, len(short))
    spread = [short[place * len(short) // few] for place in range(few)]
    return [spread[place % few] for place in range(count)], following


def answer_ends(tokens: Dataset, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: the end of sequence, and what ends the answers that are trained on."""
    special = special_tokens(tokenizer)
    rows = tokens[: min(100, len(tokens))]
    answers = [ids for ids, cut in zip(rows["chosen_ids"], rows["truncated"], strict=True) if not cut]
    last = (next((token for token in reversed(ids) if token in special), None) for ids in answers)
    return frozenset({tokenizer.eos_token_id, *last} - {None})
