import pytest

from lightning_dpo.data.rows.tracked import TrackedRow

ROW = {"prompt": "q", "chosen": {"answer": "a", "score": 1}, "turns": [{"text": "t", "id": 3}], "id": 7, "empty": None}


def test_fields_with_a_value_that_nobody_reads_are_listed():
    row = TrackedRow(ROW)
    assert dict(row.unread()).keys() == {"prompt", "chosen", "turns", "id"}
    assert (row["prompt"], row.get("chosen")["answer"], row["turns"][0]["text"]) == ("q", "a", "t")
    assert dict(row.unread()) == {"chosen.score": 1, "turns.id": 3, "id": 7}


@pytest.mark.parametrize(
    "copy", [dict, lambda row: {**row}, lambda row: row | {"more": 1}, list, lambda row: list(row.items()), max]
)
def test_who_reads_the_whole_row_reads_every_column(copy):
    row = TrackedRow({"a": 1, "b": 2})
    copy(row)
    assert not dict(row.unread())


def test_asking_whether_a_column_exists_does_not_read_it():
    row = TrackedRow({"a": 1})
    assert "a" in row
    assert dict(row.unread()) == {"a": 1}
