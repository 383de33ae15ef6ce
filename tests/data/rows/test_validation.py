import datetime
import json
import re

import pytest
from datasets import Dataset

from lightning_dpo.data.rows.reading import to_pairs
from lightning_dpo.data.rows.reasons import without_excerpts
from lightning_dpo.data.rows.validation import valid_rows
from lightning_dpo.errors import UserError

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}
INVALID = {
    "column 'rejected' is missing; there are prompt, chosen": {"prompt": "p", "chosen": "c"},
    "chosen must be text or messages, not a number (1)": GOOD | {"chosen": 1},
    "the prompt is empty": GOOD | {"prompt": " "},
    "an answer is empty": GOOD | {"rejected": "\n"},
    "both answers are identical": GOOD | {"rejected": "c"},
    "the text contains characters that are not valid Unicode": GOOD | {"chosen": "\ud800"},
    "weight must not be negative, got -1": GOOD | {"weight": -1},
    "the line is not valid JSON": "the line is not valid JSON",
    "'wieght' is not a field of a pair; the fields are": GOOD | {"wieght": 1},
    "the role of chosen[0] must be text, not a list (['human'])": {
        "chosen": [{"from": ["human"], "value": "q"}, {"from": "gpt", "value": "a"}],
        "rejected": [{"from": ["human"], "value": "q"}, {"from": "gpt", "value": "b"}],
    },
}


def pairs_of(*rows, to_pair=lambda row: row) -> Dataset:
    return to_pairs([(f"file:{n}", row) for n, row in enumerate(rows, 1)], to_pair, "rows")[0]


@pytest.mark.parametrize("reason", INVALID)
def test_every_reason(reason):
    pairs = pairs_of(GOOD, INVALID[reason])
    valid_row, invalid_row = pairs["invalid"][:]
    assert (valid_row, invalid_row.startswith(reason)) == ("", True)
    with pytest.raises(
        UserError,
        match=rf"file:2: {re.escape(reason)}.*1 of 2 rows are invalid \(1: {re.escape(without_excerpts(reason))}",
    ):
        valid_rows(pairs, "error", 0.01, [].extend)


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), 1e300])
def test_a_weight_must_be_a_finite_number(value):
    (reason,) = pairs_of(GOOD | {"weight": value})["invalid"][:]
    assert reason.startswith("weight must be a finite number, not ")


def better_response(row):
    """A source as a user writes it: without any check of its rows."""
    better = row["better_response_id"]
    return {"prompt": row["prompt"], "chosen": row[f"response_{better}"], "rejected": row[f"response_{1 - better}"]}


RESPONSES = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"better_response_id": -1},
            "column 'response_-1' is missing; there are prompt, response_0, response_1, better_response_id",
        ),
        ({"better_response_id": None}, "column 'response_None' is missing"),
        ({"better_response_id": "0"}, "TypeError: unsupported operand type"),
        ({"better_response_id": "\ud800"}, r"column 'response_\ud800' is missing"),
    ],
)
def test_whatever_a_source_raises_names_the_row(row, reason):
    good, bad = pairs_of(RESPONSES, RESPONSES | row, to_pair=better_response)["invalid"][:]
    assert good == ""
    assert bad.startswith(reason)


@pytest.mark.parametrize("made", [None, 3, [3]])
def test_a_source_must_return_pairs(made):
    (reason,) = pairs_of(GOOD, to_pair=lambda row: made)["invalid"][:]
    assert reason.startswith("the source must return a pair, a dict with chosen and rejected, or a list of pairs, not ")


def test_a_row_may_give_several_pairs_or_none(caplog):
    with caplog.at_level("INFO"):
        pairs = pairs_of(0, 1, 2, to_pair=lambda number: [GOOD | {"prompt": f"{n}"} for n in range(number)])
    assert list(zip(pairs["where"][:], pairs["prompt"][:], strict=True)) == [
        ("file:2", "0"), ("file:3", "0"), ("file:3", "1"),
    ]  # fmt: skip
    assert "rows: 1 of 3 rows were skipped by the options of data.source" in caplog.text
    with pytest.raises(UserError, match="all 1 rows of rows were skipped"):
        pairs_of(GOOD, to_pair=lambda row: [])


def test_a_date_of_a_parquet_file_is_text():
    dated = {"role": "user", "content": "q", "day": datetime.date(2024, 5, 1)}
    (pair,) = pairs_of({"prompt": [dated], "chosen": "a", "rejected": "b"})
    assert json.loads(pair["prompt"]) == [dated | {"day": "2024-05-01"}]


def test_columns_a_row_lacks_have_their_neutral_value():
    (row,) = pairs_of(GOOD)
    assert (row["weight"], row["offset"], row["source"]) == (1.0, 0.0, "")


def test_dropping_lists_the_rows_and_leaves_them_out(caplog):
    pairs = pairs_of(*[GOOD] * 200, INVALID["an answer is empty"])
    listed = []
    assert valid_rows(pairs, "drop", 0.01, listed.extend).tolist() == list(range(200))
    assert "1 of 201 rows are invalid (1: an answer is empty)" in caplog.text
    assert listed == [{"where": "file:201", "reason": "an answer is empty"}]


def test_too_many_invalid_rows_are_an_error_even_when_they_may_be_dropped():
    with pytest.raises(UserError, match=r"more than data.max_invalid_fraction=0.4.*Check that the columns"):
        valid_rows(pairs_of(GOOD, "the line is not valid JSON"), "drop", 0.4, [].extend)


def test_the_fraction_in_the_advice_is_accepted():
    pairs = pairs_of(*[GOOD] * 71, *["the line is not valid JSON"] * 29)
    with pytest.raises(UserError, match=r"remove them with data.on_invalid=drop data.max_invalid_fraction=0.29$"):
        valid_rows(pairs, "error", 0.01, [].extend)
    assert len(valid_rows(pairs, "drop", 0.29, [].extend)) == 71


def test_no_valid_row():
    with pytest.raises(UserError, match=r"1 of 1 rows are invalid .* Check that the columns"):
        valid_rows(pairs_of(INVALID["an answer is empty"]), "drop", 1.0, [].extend)


def test_no_row_at_all():
    with pytest.raises(UserError, match="rows has no rows"):
        pairs_of()
