import io

from rich.console import Console

from lightning_dpo.reports.token_table import token_table
from tests.support.chat import EXPLICIT, assistant, chat_tokenizer, tokens, user

TEXTS = ("prompt", "chosen", "rejected")


def printed(pair: dict, tokenizer, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(token_table(pair, tokenizer))
    return console.file.getvalue()


def test_tokens_ids_and_places_stand_as_they_are(tokenizer):
    """A place in brackets is no markup, and no id is shown twice."""
    texts = {"prompt": "Q:", "chosen": " no", "rejected": " x" * 30}
    pair = {f"{name}_ids": [*tokenizer(text).input_ids, 0] for name, text in texts.items()}
    pair |= {"where": "me/data[train]:12", "chosen_scored": None, "rejected_scored": None}
    text = printed(pair, tokenizer)
    assert "me/data[train]:12" in text
    assert "<|end|>" in text
    cells = [[cell.strip() for cell in line.split("│")] for line in text.splitlines() if line.startswith("│")]
    lines = {name: ids for _, name, _, ids, _ in cells}
    assert lines["chosen"] == " ".join(map(str, pair["chosen_ids"]))
    long = pair["rejected_ids"]
    assert lines["rejected"] == f"{long[0]} {long[1]} {long[2]} ... {long[-2]} {long[-1]}"
    assert f"{len(long) - 24} more" in text


def test_nothing_is_cropped_in_a_narrow_terminal(tokenizer):
    texts = {"prompt": "Question:" * 2, "chosen": " no" * 7, "rejected": " the" * 9}
    pair = {f"{name}_ids": tokenizer(text).input_ids for name, text in texts.items()}
    pair |= {"where": "rows.jsonl:1", "chosen_scored": None, "rejected_scored": None}
    text = printed(pair, tokenizer, width=50)
    assert "…" not in text
    cells = [[cell.strip() for cell in line.split("│")] for line in text.splitlines() if line.startswith("│")]
    column = "".join(tokens for _, _, tokens, _, _ in cells)
    for name in texts:
        assert "".join(f"▏{tokenizer.decode([token]).strip()}" for token in pair[f"{name}_ids"]) in column.replace(
            " ", ""
        )


def test_every_message_of_a_chat_has_its_role(tokenizer):
    chat = chat_tokenizer(tokenizer)
    (row,) = tokens(chat, [EXPLICIT[0] | {"prompt": [user("One?"), assistant("1"), user("Two? " * 200)]}])
    text = printed(row, chat)
    names = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    messages = ["prompt: user", "prompt: assistant", "prompt: user", "chosen: assistant", "rejected: assistant"]
    assert [name for name in names if name] == [*messages, *(f"{side}: tokens" for side in TEXTS)]
    assert "more characters" in text
