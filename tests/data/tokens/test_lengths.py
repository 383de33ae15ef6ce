"""Lengths of pairs, against plain Python over the tokens."""

import pytest
from datasets import Dataset

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


def test_pairs_with_one_prompt_have_one_id():
    first, second, third = PairLengths.of(Dataset.from_list(ROWS)).prompt_id
    assert first == third != second


def test_without_rejected_completions_only_chosen_ones_count():
    lengths = PairLengths.of(Dataset.from_list(ROWS))
    assert [one.tolist() for one in lengths.answers(chosen_only=True)] == [[1, 2, 3]]
    assert lengths.scored(chosen_only=True).tolist() == [1, 1, 2]
    assert lengths.scored(chosen_only=False).tolist() == [3, 3, 3]
