"""Pairs in the columns of your own file: text or messages, with or without a prompt column."""

from typing import Any, cast

from lightning_dpo.data.rows.messages import as_chat, explicit_pair
from lightning_dpo.data.rows.pairs import MESSAGE_COLUMNS, PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow


def jsonl_pair(
    row: dict[str, Any],
    *,
    prompt: str | None = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    query: str | None = None,
    system: str | None = None,
    chat: bool = False,
    weight: str | None = None,
    offset: str | None = None,
    source: str | None = None,
) -> PreferencePair:
    """The pair in the named columns of a row. The columns `tools` and `chat_template_kwargs` are read as well.

    Args:
        row: The row.
        prompt: Column of the prompt; None: `chosen` and `rejected` are whole texts or dialogues.
        chosen: Column of the preferred answer.
        rejected: Column of the other answer.
        query: Column of text that is appended to the prompt on a new line (`input` in Alpaca); None: no such column.
        system: Column of a system message; None: no such column.
        chat: Convert text to one user message and its answer, for the chat template.
        weight: Column with the weight of the pair's loss; None: every pair has weight 1.
        offset: Column of the target reward margin; None: every pair has offset 0.
        source: Column of a subset's name; validation metrics are logged for each; None: no such column.

    Raises:
        InvalidRow: The columns do not form a pair.
        KeyError: A column is missing.
    """
    columns = {"chosen": chosen, "rejected": rejected, "weight": weight, "offset": offset, "source": source}
    pair = {field: row[column] for field, column in columns.items() if column is not None}
    pair |= explicit_pair(_question(row, prompt, query, pair["chosen"]), pair["chosen"], pair["rejected"])
    if chat or isinstance(pair["prompt"], list):
        pair = as_chat(pair, row[system] if system else None)
    elif system:
        raise InvalidRow("system needs messages; for text, set data.source.chat=true")
    return cast(PreferencePair, pair | {name: row[name] for name in MESSAGE_COLUMNS if row.get(name)})


def _question(row: dict[str, Any], prompt: str | None, query: str | None, answer: Any) -> Any:
    """The prompt and, below it, the query. None if the prompt is part of the answers."""
    # Texts may contain their prompt too, but only if prompt=None asks for it: a missing column is likely an error.
    needs_prompt = isinstance(answer, str) and prompt is not None
    question = row.get(prompt) if prompt is not None else None
    if needs_prompt and prompt not in row:
        raise KeyError(prompt)
    if needs_prompt and question is None:
        raise InvalidRow(f"{prompt} is null")
    if query and row[query]:
        if not isinstance(question, str):
            raise InvalidRow("query needs a prompt that is text")
        question = f"{question}\n{row[query]}"
    return question
