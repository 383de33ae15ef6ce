"""A pair token by token, as the model sees it."""

import functools
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.tokens.special_tokens import special_tokens
from lightning_dpo.printable import printable

_SHOWN = 24  # tokens of each text


def token_table(pair: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Table:
    """The last tokens of the prompt, and the first and last tokens of the answers.

    Tokens are separated by thin bars. Special tokens are bold, and tokens of an answer that are not scored are dim.

    Args:
        pair: A row of tokenized pairs.
        tokenizer: The tokenizer.
    """
    special = special_tokens(tokenizer)
    words = functools.cache(lambda token: printable(str(tokenizer.decode([token]))).replace("\n", "\\n"))

    def text(ids: Sequence[int], scored: Sequence[bool]) -> Text:
        shown = Text("")
        for token, counts in zip(ids, scored, strict=True):
            style = " ".join(name for name, holds in (("bold", token in special), ("dim", not counts)) if holds)
            shown.append("▏").append(words(token), style)
        return shown.append("▏")

    table = Table("", "tokens", "ids at the boundary", title=Text(pair["where"]), title_justify="left")
    prompt = pair["prompt_ids"]
    before = Text(f"... {len(prompt) - _SHOWN} more ... ", "italic") if len(prompt) > _SHOWN else Text("")
    end = prompt[-_SHOWN:]
    table.add_row("prompt", before.append_text(text(end, [True] * len(end))), _ids(prompt, 0, 3))
    for side in ("chosen", "rejected"):
        ids = pair[f"{side}_ids"]
        scored = pair[f"{side}_scored"] or [True] * len(ids)
        if len(ids) <= _SHOWN:
            shown = text(ids, scored)
        else:
            half = _SHOWN // 2
            shown = text(ids[:half], scored[:half]).append(f" ... {len(ids) - 2 * half} more ... ", "italic")
            shown.append_text(text(ids[-half:], scored[-half:]))
        table.add_row(side, shown, _ids(ids, 3, 2))
    return table


def _ids(ids: Sequence[int], first: int, last: int) -> str:
    """The first and the last ids, with dots in between."""
    if len(ids) <= first + last:
        return " ".join(map(str, ids))
    return " ".join([*map(str, ids[:first]), "...", *map(str, ids[-last:])])
