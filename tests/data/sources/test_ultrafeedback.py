from lightning_dpo.data.sources import ultrafeedback_pair
from tests.support.chat import ultrafeedback_row as row


def test_a_row_becomes_its_prompt_and_two_dialogues():
    pair = ultrafeedback_pair(row("Why?", 8.0, 7.5))
    assert (pair["prompt"], pair["chosen"][-1]["content"]) == ("Why?", "Why? 8.0")


def test_pairs_with_close_scores_are_skipped_on_request():
    assert ultrafeedback_pair(row("Why?", 8.0, 7.5), min_margin=1.0) == []
    assert ultrafeedback_pair(row("Why?", 9.0, 2.0), min_margin=1.0)
    assert ultrafeedback_pair(row("Why?", 8.0, 8.0))  # the default keeps all pairs
