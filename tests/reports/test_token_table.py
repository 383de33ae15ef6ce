import io

from rich.console import Console

from lightning_dpo.reports.token_table import token_table


def printed(pair: dict, tokenizer) -> str:
    console = Console(file=io.StringIO(), width=200)
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
