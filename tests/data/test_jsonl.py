import json

import pytest

from lightning_dpo.data.jsonl import load_pairs
from lightning_dpo.errors import UserError


def test_columns_by_name(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"question": "q", "good": "g", "bad": "b", "trust": 0.5, "gap": 2}))
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad", "weight": "trust", "offset": "gap"}
    (row,) = load_pairs("train", path, **columns)
    expected = {"prompt": "q", "chosen": "g", "rejected": "b", "weight": 0.5, "offset": 2.0}
    assert expected.items() <= row.items()
    assert (row["where"], row["invalid"]) == ("pairs.jsonl:1", "")


def test_a_training_file_is_needed_and_a_validation_file_is_not():
    assert load_pairs("validation") is None
    with pytest.raises(UserError, match=r"data.path is not set"):
        load_pairs("train")
