import csv

import pytest

from lightning_dpo.errors import WriteError
from lightning_dpo.runs.history import History, read_history


def test_rows_are_appended_and_new_columns_are_empty_in_old_rows(tmp_path):
    history = History(tmp_path / "metrics.csv")
    for step, row in enumerate([{"a": 0.1}, {"a": 0.2}, {"a": 0.3, "b": 1}]):
        history.add(row, step)
        history.save()
    with history.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["a"], row["b"]) for row in rows] == [
        ("0", "0.1", ""),
        ("1", "0.2", ""),
        ("2", "0.3", "1"),
    ]


def test_a_resumed_run_keeps_the_text_of_the_rows_before_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    first = History(path)
    for step in range(4):
        first.add({"epoch": 0, "loss": 0.1 * step}, step)
    first.save()
    History(path, done=2)
    assert path.read_text() == "epoch,loss,step\n0,0.0,0\n0,0.1,1\n"


@pytest.mark.parametrize("end", ["", "0,0.12", "0,0.123,2\r"])
def test_a_row_that_a_kill_has_truncated_is_not_read(tmp_path, end):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"epoch,loss,step\r\n0,0.5,0\r\n" + end.encode())
    assert [row["loss"] for row in read_history(path)] == ["0.5"]


def test_a_folder_that_was_deleted_is_named(tmp_path):
    history = History(tmp_path / "run" / "metrics.csv")
    history.columns = ["a", "step"]
    history.add({"a": 1}, 0)
    with pytest.raises(WriteError, match=r"metrics.csv could not be written \(No such file or directory\)"):
        history.save()


def test_an_append_that_was_interrupted_is_repeated_as_a_whole(tmp_path, monkeypatch):
    """By a signal, after a part of a row was written."""
    history = History(tmp_path / "metrics.csv")
    whole = history._append

    def interrupted(text: str) -> None:
        whole(text[:2])
        raise KeyError

    for step in range(3):
        history.add({"a": step}, step)
        if step == 1:
            monkeypatch.setattr(history, "_append", interrupted)
            with pytest.raises(KeyError):
                history.save()
            monkeypatch.setattr(history, "_append", whole)
        history.save()
    assert [(row["a"], row["step"]) for row in read_history(history.path)] == [("0", "0"), ("1", "1"), ("2", "2")]
