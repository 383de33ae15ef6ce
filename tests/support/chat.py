"""A tokenizer with a chat template, and dialogues in the forms that datasets have."""

import json

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from lightning_dpo.data.rows.reading import to_pairs
from lightning_dpo.data.tokens.tokenization import Tokenization

CHATML = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(
    tokenizer: PreTrainedTokenizerFast, template: str | None = CHATML, **tokens
) -> PreTrainedTokenizerFast:
    """A copy of `tokenizer` that knows ChatML's two control tokens and `template`."""
    copy = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()),
        eos_token="<|im_end|>",
        pad_token="<|end|>",
        extra_special_tokens=["<|im_start|>"],
        **tokens,
    )
    copy.chat_template = template
    return copy


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


ROWS = range(20)
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}]
SYSTEM = {"role": "system", "content": "Be brief."}


def asked(n: int) -> list[dict]:
    """Questions with and without a system message and earlier turns."""
    return [*[SYSTEM] * (n % 2), *[user("One?"), assistant("1")] * (n % 3), user(f"The film number {n}?")]


def answers(n: int) -> tuple[str, str]:
    return f"It was good, {n}." + " Better" * (n % 4), "no" * (n % 5 + 1)


EXPLICIT = [
    {"prompt": asked(n), "chosen": [assistant(answers(n)[0])], "rejected": [assistant(answers(n)[1])]} for n in ROWS
]
IMPLICIT = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in EXPLICIT]
FORMATS = {
    "explicit": EXPLICIT,
    "implicit": IMPLICIT,
    "tools": [row | {"tools": json.dumps(TOOLS)} for row in EXPLICIT],
}


def pairs_of(rows) -> Dataset:
    """The pairs of rows that have the fields of a pair."""
    return to_pairs(((f"row {number}", row) for number, row in enumerate(rows)), lambda row: row, "rows")[0]


def tokens(tokenizer, rows, score="last", max_length=400, on_overlong="drop"):
    pairs = pairs_of(Dataset.from_list(rows))
    assert not any(pairs["invalid"])
    return Tokenization(tokenizer, max_length, on_overlong, score).tokenize(pairs)


def same_ids(ours, theirs) -> None:
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours[name][:] == theirs[name][:]


def decoded(tokenizer, row, side) -> str:
    """The scored tokens of an answer as text."""
    mask = row[f"{side}_scored"] or [True] * len(row[f"{side}_ids"])
    return tokenizer.decode([token for token, scored in zip(row[f"{side}_ids"], mask, strict=True) if scored])


def ultrafeedback_row(question: str, good: float, bad: float) -> dict:
    """A row as the hub has it."""
    chosen, rejected = ([user(question), assistant(f"{question} {grade}")] for grade in (good, bad))
    return {
        "prompt": question, "prompt_id": "0", "messages": chosen, "chosen": chosen, "rejected": rejected,
        "score_chosen": good, "score_rejected": bad,
    }  # fmt: skip
