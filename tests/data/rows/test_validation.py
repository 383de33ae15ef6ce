import json

import pytest
from datasets import Dataset

from lightning_dpo.data.rows.validation import to_pairs, valid
from lightning_dpo.errors import UserError

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}
INVALID = {
    "missing_field": {"prompt": "p", "chosen": "c"},
    "wrong_type": GOOD | {"chosen": 1},
    "empty_prompt": GOOD | {"prompt": " "},
    "empty_answer": GOOD | {"rejected": "\n"},
    "identical_answers": GOOD | {"rejected": "c"},
    "bad_utf8": GOOD | {"chosen": "\ud800"},
    "negative_weight": GOOD | {"weight": -1},
    "bad_json": "bad_json",
}


def pairs_of(*rows) -> Dataset:
    return to_pairs([(f"file:{n}", row) for n, row in enumerate(rows, 1)], lambda row: row, "rows")


@pytest.mark.parametrize("reason", INVALID)
def test_every_reason(reason):
    pairs = pairs_of(GOOD, INVALID[reason])
    told = "missing_field rejected" if reason == "missing_field" else reason
    assert pairs["invalid"][:] == ["", told]
    with pytest.raises(UserError, match=rf"file:2: .*: 1 of 2 rows are invalid \(1 {told}\)"):
        valid(pairs, "error", 0.01, None)


@pytest.mark.parametrize("value", [None, "1", True, float("nan")])
def test_a_weight_must_be_a_finite_number(value):
    assert pairs_of(GOOD | {"weight": value})["invalid"][:] == ["wrong_type"]


def test_columns_a_row_lacks_have_their_neutral_value():
    (row,) = pairs_of(GOOD)
    assert (row["weight"], row["offset"], row["source"]) == (1.0, 0.0, "")


def test_dropping_lists_the_rows_and_leaves_them_out(tmp_path, caplog):
    pairs = pairs_of(*[GOOD] * 200, INVALID["empty_answer"])
    assert len(valid(pairs, "drop", 0.01, tmp_path)) == 200
    assert "1 of 201 rows are invalid (1 empty_answer)" in caplog.text
    assert json.loads((tmp_path / "invalid_rows.jsonl").read_text()) == {"where": "file:201", "reason": "empty_answer"}


def test_too_many_invalid_rows_are_an_error_even_when_they_may_be_dropped():
    with pytest.raises(UserError, match=r"more than data.max_invalid_fraction=0.4.*of another format"):
        valid(pairs_of(GOOD, INVALID["bad_json"]), "drop", 0.4, None)


def test_no_valid_row():
    with pytest.raises(UserError, match=r"1 of 1 rows are invalid .* so nothing is left"):
        valid(pairs_of(INVALID["empty_answer"]), "drop", 1.0, None)


def test_no_row_at_all():
    with pytest.raises(UserError, match="rows has no rows"):
        pairs_of()
