import json

import pytest

from lightning_dpo.data.sources import hub
from lightning_dpo.data.sources.ultrafeedback import ultrafeedback_pairs
from tests.support.chat import assistant, user
from tests.support.chat import ultrafeedback_row as row


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "uf.jsonl"
    path.write_text("".join(json.dumps(row("Why?", *grades)) + "\n" for grades in ((8.0, 7.5), (9.0, 2.0))))
    return path


def test_rows_become_one_question_and_its_answers(path):
    first, _ = ultrafeedback_pairs("train", path)
    assert first["chat"]
    assert json.loads(first["prompt"]) == [user("Why?")]
    assert json.loads(first["chosen"]) == [assistant("Why? 8.0")]
    assert first["invalid"] == ""


def test_grades_that_are_too_close_are_not_taken_and_counted(path, caplog):
    with caplog.at_level("INFO"):
        (kept,) = ultrafeedback_pairs("train", path, min_margin=1.0)
    assert kept["where"] == "uf.jsonl:2"
    assert "data.source.min_margin: 1 rows were not taken" in caplog.text


def test_preferences_validate_on_preferences(monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "load_dataset", lambda name, split, **rest: asked.append(split) or [row("Why?", 2, 1)])
    assert ultrafeedback_pairs("train")[0]["where"] == "HuggingFaceH4/ultrafeedback_binarized[train_prefs]:0"
    ultrafeedback_pairs("validation")
    assert asked == ["train_prefs", "test_prefs"]
