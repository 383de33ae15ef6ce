import pytest

from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.sources import shp_pair
from tests.support.chat import user

ROW = {"history": "Why?", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "score_A": 2, "score_B": 4}


def test_the_label_decides_which_comment_is_preferred():
    prompt = "\n\nHuman: Why?\n\nAssistant:"
    assert shp_pair(ROW) == {"prompt": prompt, "chosen": " b", "rejected": " a"}
    assert shp_pair(ROW | {"labels": 1, "score_A": 9}) == {"prompt": prompt, "chosen": " a", "rejected": " b"}


def test_messages_on_request():
    assert shp_pair(ROW, chat=True) == {"prompt": [user("Why?")], "chosen": "b", "rejected": "a"}


@pytest.mark.parametrize(("votes", "kept"), [((2, 4), True), ((3, 5), False), ((0, 1), True), ((-2, 3), True)])
def test_a_comment_needs_twice_the_votes(votes, kept):
    row = ROW | dict(zip(("score_A", "score_B"), votes, strict=True))
    assert bool(shp_pair(row)) == kept


def test_a_label_must_be_0_or_1():
    with pytest.raises(InvalidRow, match=r"labels must be 1 if comment A is preferred, 0 if B, not a number \(-1\)"):
        shp_pair(ROW | {"labels": -1})
