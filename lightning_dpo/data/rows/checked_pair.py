"""The check of one pair, and its conversion to the columns of a dataset."""

import json
from collections.abc import Mapping
from typing import Any

from lightning_dpo.data.rows.pair_forms import explicit_pair
from lightning_dpo.data.rows.pairs import MASKS, MESSAGE_COLUMNS, NUMBERS, PreferencePair
from lightning_dpo.data.rows.reasons import IDENTICAL_ANSWERS, InvalidRow, found
from lightning_dpo.data.rows.tool_calls import from_json
from lightning_dpo.printable import name_of

_FLOAT32_MAX = 3.4028234e38


def checked_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a pair: texts, or messages as JSON with `chat`, and `invalid` if the answers are identical.

    Args:
        row: The fields of a `PreferencePair`.

    Raises:
        InvalidRow: It is not a pair.
    """
    if unknown := [name for name in row if name not in PreferencePair.__annotations__]:
        fields = ", ".join(PreferencePair.__annotations__)
        raise InvalidRow(f"{unknown[0]!r} is not a field of a pair; the fields are {fields}")
    if "prompt" in row and row["prompt"] is None and isinstance(row["chosen"], str):
        raise InvalidRow("prompt is null")
    texts = explicit_pair(row.get("prompt"), row["chosen"], row["rejected"])
    pair: dict[str, Any] = {"chat": isinstance(texts["prompt"], list)}
    pair |= {name: _json(text) if pair["chat"] else text for name, text in texts.items()}
    if not pair["chat"] and any(row.get(name) for name in MESSAGE_COLUMNS):
        raise InvalidRow("tools and chat_template_kwargs need messages, not text")
    pair |= {name: _json(_parsed(name, row[name])) for name in MESSAGE_COLUMNS if row.get(name)}
    pair |= {"source": name_of(str(row["source"]))} if row.get("source") is not None else {}
    if not all(_encodable(text) for text in pair.values() if isinstance(text, str)):
        raise InvalidRow("the text contains characters that are not valid Unicode")
    pair |= {name: _number(name, row[name]) for name in NUMBERS.keys() & row.keys()}
    pair |= {name: _mask(name, row[name]) for name in MASKS if row.get(name) is not None}
    if not pair["prompt"].strip():
        raise InvalidRow("the prompt is empty")
    if not pair["chosen"].strip() or not pair["rejected"].strip():
        raise InvalidRow("an answer is empty")
    # The texts are kept: scoring the answers in a file uses such pairs.
    return pair | ({"invalid": IDENTICAL_ANSWERS} if pair["chosen"] == pair["rejected"] else {})


def _number(name: str, value: Any) -> float:
    # The comparison is False for NaN, and also for values that would become infinite in float32.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _FLOAT32_MAX:
        raise InvalidRow(f"{name} must be a finite number, not {found(value)}")
    if name == "weight" and value < 0:
        raise InvalidRow(f"weight must not be negative, got {value!r}")
    if name == "label_noise" and not 0 <= value <= 0.5:
        raise InvalidRow(f"label_noise must be in [0, 0.5], got {value!r}; if it is larger, swap the two answers")
    return value


def _mask(name: str, value: Any) -> list[bool]:
    if not isinstance(value, list) or not value or not all(flag in (0, 1) for flag in value):
        raise InvalidRow(f"{name} must be a list of 0 and 1, one per token of the answer, not {found(value)}")
    if not any(value):
        raise InvalidRow(f"{name} selects no token")
    return [bool(flag) for flag in value]


def _json(value: Any) -> str:
    # Parquet has dates and decimals, which are text in a message.
    return json.dumps(value, ensure_ascii=False, default=str)


def _parsed(name: str, value: Any) -> Any:
    """Tools or arguments of the template, which may be JSON."""
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InvalidRow(f"{name} must be JSON, not {found(value)}") from error
    if name == "tools" and isinstance(read, list):
        read = [from_json(tool) for tool in read]
    # A row must not override the arguments that this package passes to the template.
    own = {"chat_template", "tokenize", "add_generation_prompt", "continue_final_message"}
    if not isinstance(read, list if name == "tools" else dict) or (isinstance(read, dict) and own & read.keys()):
        expected = "a list" if name == "tools" else f"an object without {', '.join(sorted(own))}"
        raise InvalidRow(f"{name} must be {expected}, not {found(read)}")
    return read


def _encodable(text: str) -> bool:
    """Whether `text` has no lone surrogates, which JSON can represent and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
