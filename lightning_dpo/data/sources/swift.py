"""The format of ms-swift: whole dialogues in `messages`, and the other answer beside them."""

from collections.abc import Mapping
from typing import Any, cast

from lightning_dpo.data.rows.messages import dialogue
from lightning_dpo.data.rows.pair_forms import explicit_pair
from lightning_dpo.data.rows.pairs import MESSAGE_COLUMNS, PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow, found
from lightning_dpo.data.sources.numeric_columns import Columns, with_numbers


def swift_pair(
    row: dict[str, Any], *, roles: Mapping[str, str] | None = None, columns: Columns = None
) -> PreferencePair:
    """The pair of a row.

    Args:
        row: A row with `messages`, which end with the preferred answer, and `rejected_response` (text) or
            `rejected_messages` (the whole dialogue, or only its end).
        roles: Names of roles in the messages; see `jsonl_pair`.
        columns: Columns of weight, offset and label noise; see `with_numbers`.

    Raises:
        InvalidRow: The dialogues do not form a pair.
        KeyError: A column is missing.
    """
    messages = dialogue(row["messages"], "messages", roles)
    if not messages or messages[-1]["role"] != "assistant":
        raise InvalidRow("messages must end with a message of the assistant, the preferred answer")
    others = row.get("rejected_messages") or None
    prompt: Any = None
    if others is None:
        others = row["rejected_response"]
        if not isinstance(others, str):
            raise InvalidRow(f"rejected_response must be text, not {found(others)}")
        prompt = messages[:-1]
    else:
        others = dialogue(others, "rejected_messages", roles)
        if others and others[0]["role"] == "assistant":
            last = max((index for index, one in enumerate(messages) if one["role"] == "user"), default=-1)
            prompt = messages[: last + 1]
    pair = explicit_pair(prompt, messages, others, ("messages", "messages", "rejected_messages"))
    pair |= {name: row[name] for name in MESSAGE_COLUMNS if row.get(name)}
    return with_numbers(cast(PreferencePair, pair), row, columns)
