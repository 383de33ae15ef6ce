import json

import pytest

from lightning_dpo.data.sources.shp import shp_pairs
from tests.support.chat import assistant, user

ROW = {"history": "Why?", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "score_A": 2, "score_B": 4}


def pairs(tmp_path, *rows, **options):
    path = tmp_path / "shp.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(shp_pairs("train", path, **options))


def test_the_label_says_which_comment_wins(tmp_path):
    first, second = pairs(tmp_path, ROW, ROW | {"labels": 1, "score_A": 9})
    assert (first["prompt"], first["chosen"], first["rejected"]) == ("\n\nHuman: Why?\n\nAssistant:", " b", " a")
    assert (second["chosen"], second["rejected"]) == (" a", " b")


def test_messages_on_request(tmp_path):
    (row,) = pairs(tmp_path, ROW, chat=True)
    assert [json.loads(row[name]) for name in ("prompt", "chosen")] == [[user("Why?")], [assistant("b")]]


@pytest.mark.parametrize(("votes", "taken"), [((2, 4), True), ((3, 5), False), ((0, 1), True), ((-2, 3), True)])
def test_a_comment_needs_twice_the_votes(tmp_path, votes, taken):
    row = ROW | dict(zip(("score_A", "score_B"), votes, strict=True))
    assert len(pairs(tmp_path, ROW | {"score_B": 100}, row)) == 1 + taken


def test_a_row_of_another_format_is_named(tmp_path):
    _, other = pairs(tmp_path, ROW, {"history": "Why?"})
    assert other["invalid"] == "missing_field 'score_A'"
