"""Lengths of pairs, against plain Python over the tokens."""

from dataclasses import fields

import pytest
from datasets import Dataset, concatenate_datasets

from lightning_dpo.data.tokens.lengths import PairLengths, with_numbers

ROWS = [
    {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5, 6], "chosen_scored": None,
     "rejected_scored": [True, False, True]},
    {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [7, 8], "chosen_scored": [False, True],
     "rejected_scored": None},
    {"prompt_ids": [1, 2], "chosen_ids": [9, 9, 9], "rejected_ids": [7], "chosen_scored": [True, True, False],
     "rejected_scored": [True]},
]  # fmt: skip


def scored(row, side):
    mask = row[f"{side}_scored"]
    return len(row[f"{side}_ids"]) if mask is None else sum(mask)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1]])
@pytest.mark.parametrize("stored", [False, True])
def test_lengths_are_those_of_the_selected_rows(order, stored):
    tokens = Dataset.from_list(ROWS)
    if stored:
        tokens = with_numbers(tokens, PairLengths.of(tokens), source=[0] * len(tokens))
    lengths = PairLengths.of(tokens.select(order))
    rows = [ROWS[index] for index in order]
    assert lengths.prompt.tolist() == [len(row["prompt_ids"]) for row in rows]
    assert lengths.chosen.tolist() == [len(row["chosen_ids"]) for row in rows]
    assert lengths.rejected.tolist() == [len(row["rejected_ids"]) for row in rows]
    assert lengths.chosen_scored.tolist() == [scored(row, "chosen") for row in rows]
    assert lengths.rejected_scored.tolist() == [scored(row, "rejected") for row in rows]


def in_chunks():
    """The rows, in tables of one and of two rows."""
    features = Dataset.from_list(ROWS).features
    return concatenate_datasets([Dataset.from_list(part, features=features) for part in (ROWS[:1], ROWS[1:])])


@pytest.mark.parametrize("stored", [False, True])
def test_pairs_with_one_prompt_have_one_id(stored):
    tokens = in_chunks()
    if stored:
        tokens = with_numbers(tokens, PairLengths.of(tokens), source=[0] * len(tokens))
    first, second, third = PairLengths.of(tokens.select([2, 1, 0])).prompt_id
    assert first == third != second


def test_lengths_do_not_depend_on_chunks():
    whole, parts = PairLengths.of(Dataset.from_list(ROWS)), PairLengths.of(in_chunks())
    for field in fields(PairLengths):
        assert getattr(whole, field.name).tolist() == getattr(parts, field.name).tolist()


def test_without_masks_all_tokens_are_scored():
    tokens = Dataset.from_list([row | {"chosen_scored": None, "rejected_scored": None} for row in ROWS])
    lengths = PairLengths.of(tokens)
    assert lengths.chosen_scored.tolist() == lengths.chosen.tolist() == [1, 2, 3]
    assert lengths.rejected_scored.tolist() == [3, 2, 1]


def test_no_pairs_have_no_lengths():
    assert not len(PairLengths.of(in_chunks().select([])).prompt_id)


def test_without_rejected_completions_only_chosen_ones_count():
    lengths = PairLengths.of(Dataset.from_list(ROWS))
    assert [one.tolist() for one in lengths.answers(chosen_only=True)] == [[1, 2, 3]]
    assert lengths.scored(chosen_only=True).tolist() == [1, 1, 2]
    assert lengths.scored(chosen_only=False).tolist() == [3, 3, 3]
