"""Encodes a prompt with its first answer, and of the other answers only the text after the prompt's last words.

Byte-level BPE splits a text into words by a regular expression that reads from left to right, and no token crosses the
end of a word. What follows the start of a word can therefore be encoded without the text before it.
"""

import json
import re
from collections.abc import Sequence

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

Ids = list[int]

_LONGEST = 100  # characters of a special token


def encodes_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is byte-level BPE that encodes every word of a text independently."""
    if not tokenizer.is_fast:
        return False
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = state["pre_tokenizer"] or {}
    *splits, last = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    byte_level = last.get("type") == "ByteLevel" and not last["add_prefix_space"] and last["use_regex"] == (not splits)
    forward = all(split["type"] == "Split" and _looks_forward(split["pattern"]) for split in splits)
    plain = state["normalizer"] is None and state["model"]["type"] == "BPE" and not state["model"].get("dropout")
    # Other added tokens are ordinary text that may cross words.
    special = all(token["special"] and len(token["content"]) <= _LONGEST for token in state["added_tokens"])
    lead = tokenizer("").input_ids
    start_only = tokenizer("a").input_ids == [*lead, *tokenizer("a", add_special_tokens=False).input_ids]
    return byte_level and forward and plain and special and start_only


def _looks_forward(pattern: dict[str, str]) -> bool:
    """Whether a pattern does not depend on the text before a match."""
    return "Regex" in pattern and not re.search(r"\(\?<|(?<!\[)\^|\\b|\\G", pattern["Regex"])


def encoded(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], chosen: Sequence[str], rejected: Sequence[str]
) -> tuple[list[Ids], list[Ids], list[Ids]]:
    """Ids of each prompt, and of the prompt with each of its answers: what `tokenizer` returns for the three texts.

    Args:
        tokenizer: A tokenizer for which `encodes_words` is True.
        prompts: The prompts.
        chosen: The answers that are encoded with their prompts.
        rejected: The other answers.
    """
    whole = tokenizer([prompt + answer for prompt, answer in zip(prompts, chosen, strict=True)])
    lead, special = len(tokenizer("").input_ids), _special(tokenizer)
    cuts = []
    for encoding, prompt, answer, other in zip(whole.encodings or (), prompts, chosen, rejected, strict=True):
        start, token = _last_word(encoding, prompt + answer, len(prompt), lead)
        # A special token is found in the whole text, before words: the prompt and the other answer may form one.
        across = special.search(prompt[max(0, start - _LONGEST) :] + other)
        cuts.append((0, lead) if across else (start, token))
    ends = [prompt[start:] for prompt, (start, _) in zip(prompts, cuts, strict=True)]
    others = [end + answer for end, answer in zip(ends, rejected, strict=True)]
    tails = tokenizer([*ends, *others], add_special_tokens=False).input_ids
    starts = [ids[:token] for ids, (_, token) in zip(whole.input_ids, cuts, strict=True)]
    joined = [start + tail for start, tail in zip([*starts, *starts], tails, strict=True)]
    return joined[: len(prompts)], whole.input_ids, joined[len(prompts) :]


def _special(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds special tokens in a text."""
    names = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values()]
    return re.compile("|".join(names) or r"(?!)")


def _last_word(encoding: Encoding, text: str, end: int, lead: int) -> tuple[int, int]:
    """Character and token at which a word starts before `end`, as late as it is certain; the start if there is none."""
    token = next((found for at in range(end - 1, -1, -1) if (found := encoding.char_to_token(at)) is not None), None)
    word = None if token is None else encoding.token_to_word(token)
    while word is not None and word > 0:
        characters, tokens = encoding.word_to_chars(word), encoding.word_to_tokens(word)
        if characters and tokens and _starts_word(text, characters[0]):
            return characters[0], tokens[0]
        word -= 1
    return 0, lead


def _starts_word(text: str, start: int) -> bool:
    """Whether the word whose offsets begin at `start` has no white space before it, which offsets exclude."""
    if not 0 < start < len(text) or text[start].isspace():
        return False
    return not text[start - 1].isspace() or text[start - 1] in "\r\n"
