"""Which rows can be pairs, and what becomes of those that cannot: each is named by its place and a reason."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, Features, Value
from rich.progress import track

from lightning_dpo.data.rows.messages import explicit_pair, without_null
from lightning_dpo.data.rows.pairs import MESSAGE_COLUMNS, Row
from lightning_dpo.data.rows.reasons import InvalidRow, meaning
from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder

log = logging.getLogger(__name__)

_TEXTS = ("prompt", "chosen", "rejected")
_NUMBERS = {"weight": 1.0, "offset": 0.0}
_EMPTY = dict.fromkeys((*_TEXTS, *MESSAGE_COLUMNS, "source", "invalid"), "") | _NUMBERS | {"chat": False}
_FEATURES = Features(
    {name: Value("string") for name in (*_TEXTS, *MESSAGE_COLUMNS, "source", "where", "invalid")}
    | {"weight": Value("float32"), "offset": Value("float32"), "chat": Value("bool")}
)


def to_pairs(rows: Iterable[Row], to_pair: Callable[[dict[str, Any]], Mapping[str, Any]], name: str) -> Dataset:
    """Read every row, make an explicit pair of it, and mark those that are none.

    Args:
        rows: Place and content of every row.
        to_pair: Makes a `PreferencePair` of a row, or raises `InvalidRow`; a missing key may raise KeyError.
        name: Of the data, for the progress bar.

    Returns:
        Rows with all columns of `PreferencePair`. Messages are JSON, and `chat` says so; `where` and `invalid` are
        filled in.

    Raises:
        UserError: There is no row at all.
    """
    columns: dict[str, list[Any]] = {column: [] for column in _FEATURES}
    for where, row in track(rows, description=f"Reading {name}", transient=True):
        pair = _EMPTY | {"where": where}
        try:
            pair |= _checked(to_pair(row)) if isinstance(row, dict) else {"invalid": row}
        except KeyError as field:
            pair["invalid"] = f"missing_field {field.args[0]}"
        except InvalidRow as reason:
            pair["invalid"] = str(reason)
        for column, values in columns.items():
            values.append(pair[column])
    if not columns["where"]:
        raise UserError(f"data: {name} has no rows")
    return Dataset.from_dict(columns, features=_FEATURES)


def checked_pairs(pairs: Dataset, name: str) -> Dataset:
    """What `to_pairs` makes of a source's own `datasets.Dataset`, whose rows are counted from 0."""
    if "invalid" in pairs.column_names:
        return pairs
    rows = ((f"{name} row {number}", row) for number, row in enumerate(pairs))
    return to_pairs(rows, dict, name)


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    if "prompt" in row and row["prompt"] is None and isinstance(row["chosen"], str):
        raise InvalidRow("wrong_type")  # a prompt that is empty in this row alone
    texts = explicit_pair(row.get("prompt"), row["chosen"], row["rejected"])
    pair: dict[str, Any] = {"chat": isinstance(texts["prompt"], list)}
    pair |= {name: _json(text) if pair["chat"] else text for name, text in texts.items()}
    pair |= {name: _json(_parsed(name, row[name])) for name in MESSAGE_COLUMNS if row.get(name)}
    if not pair["chat"] and any(name in pair for name in MESSAGE_COLUMNS):
        raise InvalidRow("wrong_type tools and template arguments are for messages")
    pair |= {"source": str(row["source"])} if row.get("source") is not None else {}
    if not all(_encodable(text) for text in pair.values() if isinstance(text, str)):
        raise InvalidRow("bad_utf8")
    for name in _NUMBERS.keys() & row.keys():
        pair[name] = number = row[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < float("inf"):
            raise InvalidRow("wrong_type")
        if name == "weight" and number < 0:
            raise InvalidRow("negative_weight")
    if not pair["prompt"].strip():
        raise InvalidRow("empty_prompt")
    if not pair["chosen"].strip() or not pair["rejected"].strip():
        raise InvalidRow("empty_answer")
    if pair["chosen"] == pair["rejected"]:
        raise InvalidRow("identical_answers")
    return pair


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _parsed(name: str, value: Any) -> Any:
    """Tools or arguments of the template, which may be JSON; fields that Arrow filled up with null are left out."""
    try:
        value = without_null(json.loads(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise InvalidRow(f"wrong_type {name}") from error
    # What the program itself gives the template is not a row's to say.
    own = {"chat_template", "tokenize", "add_generation_prompt", "continue_final_message"}
    if not isinstance(value, list if name == "tools" else dict) or (isinstance(value, dict) and own & value.keys()):
        raise InvalidRow(f"wrong_type {name}")
    return value


def _encodable(text: str) -> bool:
    """Whether `text` is free of lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def valid(
    pairs: Dataset, on_invalid: Literal["error", "drop"], max_invalid_fraction: float, folder: Path | None
) -> Dataset:
    """The rows of `pairs` that are not marked as invalid.

    Args:
        pairs: Rows with `where` and `invalid`.
        on_invalid: `error` refuses the first invalid row; `drop` leaves them out and says so.
        max_invalid_fraction: With `drop`, the share of rows above which something else must be wrong.
        folder: Where `invalid_rows.jsonl` lists those that were left out; None writes none.

    Raises:
        UserError: There are invalid rows, or too many, or no valid one.
    """
    if "invalid" not in pairs.column_names:
        return pairs
    reasons = pairs["invalid"][:]
    bad = [row for row, reason in enumerate(reasons) if reason]
    if not bad:
        return pairs
    places = pairs["where"][:] if "where" in pairs.column_names else [f"row {row}" for row in range(len(pairs))]
    found = [{"where": places[row], "reason": reasons[row]} for row in bad]
    first = "; ".join(f"{row['where']}: {meaning(row['reason'])}" for row in found[:10])
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(row["reason"] for row in found).most_common())
    share = f"{len(bad)} of {len(pairs)} rows are invalid ({counts})"
    if folder:
        with RunFolder(folder).invalid_rows.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)
    if on_invalid == "error":
        raise UserError(f"{first}: {share}; mend them, or leave them out with data.on_invalid=drop")
    if len(bad) > max_invalid_fraction * len(pairs):
        raise UserError(
            f"{share}, more than data.max_invalid_fraction={max_invalid_fraction}: {first}; "
            "is the file of another format, or the tokenizer of another model?"
        )
    if len(bad) == len(pairs):
        raise UserError(f"{share}, so nothing is left: {first}")
    log.warning("Dropped: %s. The first: %s.", share, first)
    return pairs.select([row for row, reason in enumerate(reasons) if not reason])
