"""Everything that is known to go wrong with files of pairs: each as a file, with the message that it gets."""

import json

import pytest

from lightning_dpo import PreferenceDataModule, UserError

GOOD = {"prompt": "Q:", "chosen": " yes", "rejected": " no"}
OTHER = {"prompt": "R:", "chosen": " good", "rejected": " was"}


def bytes_of(*rows: dict | str | bytes) -> bytes:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return b"\n".join(lines)


BAD = {
    "a missing field": (
        {"prompt": "Q:", "chosen": " a"},
        r"bad.jsonl:3: column 'rejected' is missing; there are prompt, chosen",
    ),
    "a missing prompt": (
        {"chosen": "a", "rejected": "b"},
        r"bad.jsonl:3: column 'prompt' is missing; there are chosen, rejected",
    ),
    "a number": (
        GOOD | {"chosen": 1},
        r"bad.jsonl:3: chosen must be text or messages, not a number \(1\)",
    ),
    "a null prompt": (GOOD | {"prompt": None}, "bad.jsonl:3: prompt is null"),
    "a null answer": (GOOD | {"chosen": None}, "bad.jsonl:3: chosen must be text or messages, not null"),
    "an empty prompt": (GOOD | {"prompt": " "}, "bad.jsonl:3: the prompt is empty"),
    "an empty answer": (GOOD | {"rejected": "\n"}, "bad.jsonl:3: an answer is empty"),
    "identical answers": (GOOD | {"rejected": " yes"}, "bad.jsonl:3: both answers are identical"),
    "a special token": (
        GOOD | {"prompt": "Q<|end|>:"},
        "bad.jsonl:3: the text contains a special token of the tokenizer",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_by_file_and_line(tmp_path, tokenizer, name):
    row, message = BAD[name]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(bytes_of(GOOD, OTHER, row))
    with pytest.raises(UserError, match=rf"{message}.*1 of 3 rows are invalid"):
        PreferenceDataModule(str(path), tokenizer=tokenizer, val_fraction=0.5).setup()


def test_byte_order_mark_carriage_returns_and_other_columns_do_no_harm(tmp_path, tokenizer):
    path = tmp_path / "good.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + bytes_of(GOOD | {"note": 3}, OTHER).replace(b"\n", b"\r\n") + b"\r\n\r\n")
    data = PreferenceDataModule(str(path), tokenizer=tokenizer, val_fraction=0.5)
    data.setup()
    assert len(data.train_pairs) == len(data.val_pairs) == 1


def test_an_empty_file(tmp_path, tokenizer):
    (tmp_path / "bad.jsonl").write_bytes(b"\n")
    with pytest.raises(UserError, match=r"bad.jsonl has no rows"):
        PreferenceDataModule(str(tmp_path / "bad.jsonl"), tokenizer=tokenizer).setup()


def test_a_prompt_that_leaves_no_room(tmp_path, tokenizer):
    (tmp_path / "bad.jsonl").write_bytes(bytes_of(GOOD | {"prompt": "Q" * 99}, OTHER | {"prompt": "R" * 99}))
    with pytest.raises(UserError, match=r"no train pairs are left; 1 are longer than data.max_length=20: increase it"):
        PreferenceDataModule(str(tmp_path / "bad.jsonl"), tokenizer=tokenizer, max_length=20, val_fraction=0.5).setup()
