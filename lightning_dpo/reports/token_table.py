"""A pair as the model sees it: its messages, and its tokens."""

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.tokens.special_tokens import special_tokens
from lightning_dpo.printable import printable

_SHOWN = 24  # tokens of each text
_LONGEST = 400  # characters of each message
_SCORED, _SPECIAL = "green", "bold"


def token_table(pair: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Table:
    """The messages of a pair; the last tokens of the prompt, and the first and last tokens of the answers.

    Tokens are separated by thin bars. Special tokens are bold, and scored tokens green.

    Args:
        pair: A row of tokenized pairs.
        tokenizer: The tokenizer.
    """
    special = special_tokens(tokenizer)
    words = functools.cache(lambda token: printable(str(tokenizer.decode([token]))).replace("\n", "\\n"))

    def text(ids: Sequence[int], scored: Sequence[bool]) -> Text:
        shown = Text("")
        for token, counts in zip(ids, scored, strict=True):
            style = " ".join(name for name, holds in ((_SPECIAL, token in special), (_SCORED, counts)) if holds)
            shown.append("▏").append(words(token), style)
        return shown.append("▏")

    table = Table(
        title=Text(pair["where"]),
        title_justify="left",
        caption=f"Tokens are between thin bars. Scored tokens are {_SCORED}, special tokens {_SPECIAL}.",
        caption_justify="left",
    )
    # Folded at any character: the end of a prompt and the start of an answer must not be cropped.
    table.add_column("", overflow="fold")
    table.add_column("messages and tokens" if pair.get("chat") else "tokens", overflow="fold", ratio=1)
    table.add_column("ids at the boundary", overflow="fold")
    for side in ("prompt", "chosen", "rejected"):
        if pair.get("chat"):
            for role, content in _messages(pair[side]):
                table.add_row(Text(f"{side}: {role}"), Text(content), "")
    name = "{}: tokens" if pair.get("chat") else "{}"
    prompt = pair["prompt_ids"]
    before = Text(f"... {len(prompt) - _SHOWN} more ... ", "italic") if len(prompt) > _SHOWN else Text("")
    end = prompt[-_SHOWN:]
    table.add_row(name.format("prompt"), before.append_text(text(end, [False] * len(end))), _ids(prompt, 0, 3))
    for side in ("chosen", "rejected"):
        ids = pair[f"{side}_ids"]
        scored = pair[f"{side}_scored"] or [True] * len(ids)
        if len(ids) <= _SHOWN:
            shown = text(ids, scored)
        else:
            half = _SHOWN // 2
            shown = text(ids[:half], scored[:half]).append(f" ... {len(ids) - 2 * half} more ... ", "italic")
            shown.append_text(text(ids[-half:], scored[-half:]))
        table.add_row(name.format(side), shown, _ids(ids, 3, 2))
    return table


def _messages(as_json: str) -> Iterator[tuple[str, str]]:
    """Role and text of each message, with its other fields as JSON."""
    for message in json.loads(as_json):
        fields = {name: value for name, value in message.items() if name not in ("role", "content")}
        parts = (message.get("content"), json.dumps(fields, ensure_ascii=False) if fields else None)
        content = printable("\n".join(filter(None, parts)))
        half = _LONGEST // 2
        left_out = len(content) - _LONGEST
        shown = content if left_out <= 0 else f"{content[:half]} ... {left_out} more characters ... {content[-half:]}"
        yield printable(message["role"]), shown


def _ids(ids: Sequence[int], first: int, last: int) -> str:
    """The first and the last ids, with dots in between."""
    if len(ids) <= first + last:
        return " ".join(map(str, ids))
    return " ".join([*map(str, ids[:first]), "...", *map(str, ids[-last:])])
