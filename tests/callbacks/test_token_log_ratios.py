import json

import pytest

from lightning_dpo.callbacks.token_log_ratios import pieces, write
from lightning_dpo.data.tokens.prompts import Answer


def test_the_tokens_of_one_character_are_one_piece(tokenizer):
    text = " é was good 😀!"
    ids = tokenizer(text).input_ids
    found = pieces(tokenizer, ids, [1.0] * len(ids))
    assert "".join(piece for piece, _ in found) == text
    assert len(found) < len(ids)
    assert sum(value for _, value in found) == len(ids)
    # Four bytes, and no merges in this vocabulary.
    assert dict(found)["😀"] == pytest.approx(len(tokenizer("😀").input_ids))


def test_an_answer_that_ends_within_a_character(tokenizer):
    ids = tokenizer("good 😀").input_ids[:-1]
    assert sum(value for _, value in pieces(tokenizer, ids, [0.5] * len(ids))) == 0.5 * len(ids)


def test_tokens_that_are_not_scored_have_no_value(tmp_path, tokenizer):
    """Such as the user's message between two answers."""
    first, second = tokenizer(" good").input_ids, tokenizer(" cake").input_ids
    answer = Answer([*first, *second], [True] * len(first) + [False] * len(second))
    write(tmp_path / "log_ratios.jsonl", tokenizer, [(first, {"chosen": answer}, [[0.5] * len(first)])])
    row = json.loads((tmp_path / "log_ratios.jsonl").read_text())
    assert "".join(text for text, _ in row["chosen"]) == " good cake"
    assert [value for _, value in row["chosen"]] == [0.5] * len(first) + [None] * len(second)
