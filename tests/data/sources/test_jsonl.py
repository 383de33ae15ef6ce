import json

import pytest

from lightning_dpo.data.sources.jsonl import jsonl_pairs
from lightning_dpo.errors import UserError


def test_columns_by_name(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"question": "q", "good": "g", "bad": "b", "trust": 0.5, "gap": 2}))
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad", "weight": "trust", "offset": "gap"}
    (row,) = jsonl_pairs("train", path, **columns)
    expected = {"prompt": "q", "chosen": "g", "rejected": "b", "weight": 0.5, "offset": 2.0}
    assert expected.items() <= row.items()
    assert (row["where"], row["invalid"]) == ("pairs.jsonl:1", "")


def test_a_training_file_is_needed_and_a_validation_file_is_not():
    assert jsonl_pairs("validation") is None
    with pytest.raises(UserError, match=r"data.path is not set"):
        jsonl_pairs("train")


@pytest.mark.parametrize(
    ("row", "columns", "reason"),
    [
        ({"sys": "Be kind."}, {"system": "sys"}, "wrong_type system is for messages, or data.source.chat=true"),
        ({}, {"query": "inptu"}, "missing_field inptu"),
        ({"prompt": [{"role": "user", "content": "q"}], "in": "x"}, {"query": "in"}, "wrong_type query is for text"),
    ],
)
def test_a_column_that_would_have_no_effect_is_noticed(tmp_path, row, columns, reason):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"} | row))
    assert jsonl_pairs("train", path, **columns)["invalid"][:] == [reason]


def test_whole_texts_hold_their_prompt_when_that_is_said(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"chosen": "Q: yes", "rejected": "Q: no"}))
    assert jsonl_pairs("train", path)["invalid"][:] == ["missing_field prompt"]
    (row,) = jsonl_pairs("train", path, prompt=None)
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("Q:", " yes", " no")
