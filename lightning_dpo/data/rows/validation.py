"""Which rows are valid pairs; those that are not are reported by location and reason."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, Features, Value
from rich.progress import track

from lightning_dpo.data.rows.messages import explicit_pair, without_null
from lightning_dpo.data.rows.pairs import MESSAGE_COLUMNS, NUMBERS, PreferencePair, Row, ToPair
from lightning_dpo.data.rows.reasons import IDENTICAL_ANSWERS, InvalidRow, reason_of
from lightning_dpo.errors import UserError
from lightning_dpo.printable import name_of, printable
from lightning_dpo.run_folder import RunFolder, write_atomically

log = logging.getLogger(__name__)

_TEXTS = ("prompt", "chosen", "rejected")
_FLOAT32_MAX = 3.4028234e38
_EMPTY = dict.fromkeys((*_TEXTS, *MESSAGE_COLUMNS, "source", "invalid"), "") | NUMBERS | {"chat": False}
_FEATURES = Features(
    {name: Value("string") for name in (*_TEXTS, *MESSAGE_COLUMNS, "source", "where", "invalid")}
    | {"weight": Value("float32"), "offset": Value("float32"), "chat": Value("bool")}
)


def to_pairs(rows: Iterable[Row], to_pair: ToPair, name: str) -> Dataset:
    """Convert all rows to pairs and mark those that are invalid.

    Args:
        rows: Location and content of every row.
        to_pair: Converts a row to a pair or a list of pairs. Any exception is a reason why the row is invalid.
        name: Name of the data, for the progress bar and messages.

    Returns:
        One row per pair with the fields of `PreferencePair` and `chat`, `where` and `invalid`: whether the texts are
        messages as JSON, the location, and the reason or an empty string.

    Raises:
        UserError: The data have no rows, or all rows were skipped.
    """
    columns: dict[str, list[Any]] = {column: [] for column in _FEATURES}
    read = skipped = 0
    for where, row in track(rows, description=f"Reading {name}", transient=True):
        pairs = list(_pairs(row, to_pair))
        read, skipped = read + 1, skipped + (not pairs)
        for pair in pairs:
            filled = _EMPTY | {"where": where} | pair
            for column, values in columns.items():
                values.append(filled[column])
    if not columns["where"]:
        raise UserError(f"data: {name} has no rows" if not read else f"data: all {read} rows of {name} were skipped")
    if skipped:
        log.info("%s: %d of %d rows were skipped by the options of data.source.", name, skipped, read)
    return Dataset.from_dict(columns, features=_FEATURES)


def _pairs(row: dict[str, Any] | str, to_pair: ToPair) -> Iterator[dict[str, Any]]:
    """The checked pairs of a row; for an invalid pair, the reason."""
    if isinstance(row, str):
        yield {"invalid": row}
        return
    try:
        pairs = _as_list(to_pair(row))
    # `to_pair` is the user's code: any exception must be reported with the row, and not end the program.
    except Exception as error:
        yield {"invalid": reason_of(error, row)}
        return
    for pair in pairs:
        try:
            yield _checked(pair)
        # Values may have any type, such as a date in a message, which JSON cannot represent.
        except Exception as error:
            yield {"invalid": reason_of(error, pair)}


def _as_list(made: Any) -> list[Mapping[str, Any]]:
    pairs = [made] if isinstance(made, Mapping) or not isinstance(made, Iterable) else list(made)
    for pair in pairs:
        if not isinstance(pair, Mapping):
            expected = "a pair, a dict with chosen and rejected, or a list of pairs"
            raise InvalidRow(f"the source must return {expected}, not {type(pair).__name__}")
    return pairs


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
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
    if not pair["prompt"].strip():
        raise InvalidRow("the prompt is empty")
    if not pair["chosen"].strip() or not pair["rejected"].strip():
        raise InvalidRow("an answer is empty")
    # The texts are kept: scoring the answers in a file uses such pairs.
    return pair | ({"invalid": IDENTICAL_ANSWERS} if pair["chosen"] == pair["rejected"] else {})


def _number(name: str, value: Any) -> float:
    # The comparison is False for NaN, and also for values that would become infinite in float32.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _FLOAT32_MAX:
        raise InvalidRow(f"{name} must be a finite number, not {value!r:.40}")
    if name == "weight" and value < 0:
        raise InvalidRow(f"weight must not be negative, got {value!r}")
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _parsed(name: str, value: Any) -> Any:
    """Tools or arguments of the template, which may be JSON, without the null fields that Arrow adds."""
    try:
        value = without_null(json.loads(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise InvalidRow(f"{name} is not valid JSON") from error
    # A row must not override the arguments that this package passes to the template.
    own = {"chat_template", "tokenize", "add_generation_prompt", "continue_final_message"}
    if not isinstance(value, list if name == "tools" else dict) or (isinstance(value, dict) and own & value.keys()):
        expected = "a list" if name == "tools" else f"an object without {', '.join(sorted(own))}"
        raise InvalidRow(f"{name} must be {expected}")
    return value


def _encodable(text: str) -> bool:
    """Whether `text` has no lone surrogates, which JSON can represent and UTF-8 cannot."""
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
        on_invalid: `error` rejects data with invalid rows; `drop` removes these rows and logs a warning.
        max_invalid_fraction: With `drop`, the maximum share of invalid rows. More indicate another kind of error.
        folder: Where `invalid_rows.jsonl` lists the removed rows; None: it is not written.

    Raises:
        UserError: There are invalid rows, too many of them, or no valid row.
    """
    reasons = pairs["invalid"][:]
    bad = [row for row, reason in enumerate(reasons) if reason]
    if not bad:
        return pairs
    found = [{"where": pairs[row]["where"], "reason": printable(reasons[row])} for row in bad]
    first = "; ".join(f"{row['where']}: {row['reason']}" for row in found[:10])
    counts = "; ".join(f"{count}: {reason}" for reason, count in Counter(row["reason"] for row in found).most_common(5))
    share = f"{len(bad)} of {len(pairs)} rows are invalid ({counts})"
    if folder:
        path = RunFolder(folder).invalid_rows
        earlier = path.read_text(encoding="utf-8") if path.exists() else ""
        write_atomically(path, earlier + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    if on_invalid == "error":
        raise UserError(f"{first}. {share}; correct them, or remove them with data.on_invalid=drop")
    if len(bad) > max_invalid_fraction * len(pairs):
        raise UserError(
            f"{share}, more than data.max_invalid_fraction={max_invalid_fraction}. The first: {first}. Check that the "
            "columns and the tokenizer are the right ones"
        )
    if len(bad) == len(pairs):
        raise UserError(f"{share}, so no pair is left. The first: {first}")
    log.warning("Dropped: %s. The first: %s.", share, first)
    return pairs.select([row for row, reason in enumerate(reasons) if not reason])
