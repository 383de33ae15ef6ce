import pickle

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_dpo.batch import MicroBatch, Stretch, TokenizedPair
from lightning_dpo.layouts import SharedLayout
from tests.support.pairs import padded_batch, random_pairs, shared_batch

PAIR = TokenizedPair(7, [1, 2], [3, 9], [4, 5, 9], weight=0.5, offset=0.25, source=1)
SAME_PROMPT = TokenizedPair(8, [1, 2], [6, 9], [3, 9])
OTHER_PROMPT = TokenizedPair(9, [8], [3, 9], [4, 9], chosen_scored=[False, True])


def test_one_pair_by_hand():
    """`1 2 | 3 9 | 4 5 9`: token 1, the prompt's last, predicts 3 and 4; positions of 4 5 9 follow the prompt's."""
    batch = SharedLayout()(MicroBatch([PAIR], [True], 4, 20))
    assert batch.input_ids.tolist() == [[1, 2, 3, 9, 4, 5, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4]]
    assert batch.segments.stretches == (Stretch(4, prefix=0), Stretch(3, prefix=2))
    assert batch.score_index.tolist() == [1, 2, 1, 4, 5]
    assert batch.target_ids.tolist() == [3, 9, 4, 5, 9]
    assert batch.completion_index.tolist() == [0, 0, 1, 1, 1]
    assert batch.completion_lengths.tolist() == [2.0, 3.0]
    assert (batch.chosen.tolist(), batch.rejected.tolist()) == ([0], [1])
    assert (batch.pair_index.item(), batch.weight.item(), batch.offset.item(), batch.source.item()) == (7, 0.5, 0.25, 1)
    assert (batch.step_pairs.item(), batch.step_chosen_tokens.item(), batch.tokens.item()) == (4, 20, 7)


def test_pairs_of_one_prompt_share_it_and_their_completions():
    """Pairs 7 and 8 have a prompt and the completion 3 9 in common; under another prompt, 3 9 is another completion."""
    batch = SharedLayout()(MicroBatch([PAIR, OTHER_PROMPT, SAME_PROMPT], [True] * 3, 3, 6))
    assert batch.input_ids.tolist() == [[1, 2, 3, 9, 4, 5, 9, 6, 9, 8, 3, 9, 4, 9]]
    assert [tuple(stretch) for stretch in batch.segments.stretches] == [(4, 0), (3, 2), (2, 2), (3, 0), (2, 1)]
    assert (batch.chosen.tolist(), batch.rejected.tolist()) == ([0, 3, 2], [1, 4, 0])
    # Of completion 3, the first token is not scored.
    assert batch.completion_index.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 4, 4]
    assert batch.completion_lengths.tolist() == [2.0, 3.0, 2.0, 1.0, 2.0]


@given(count=st.integers(1, 9), seed=st.integers(0, 20))
def test_both_layouts_hold_the_same_completions_for_every_pair(count, seed):
    pairs = random_pairs(count, seed)
    shared, padded = shared_batch(pairs), padded_batch(pairs)
    for side in ("chosen", "rejected"):
        mine, theirs = getattr(shared, side), getattr(padded, side)
        assert torch.equal(shared.completion_lengths[mine], padded.completion_lengths[theirs])
        for one, other in zip(mine, theirs, strict=True):
            targets = [
                batch.target_ids[batch.completion_index == row] for batch, row in ((shared, one), (padded, other))
            ]
            assert torch.equal(*targets)
    assert sum(stretch.length for stretch in shared.segments.stretches) == shared.input_ids.numel() == shared.tokens


def test_a_pair_that_fills_up_costs_nothing_and_has_no_weight():
    batch = SharedLayout()(MicroBatch([PAIR, PAIR], [True, False], 1, 2))
    assert batch.input_ids.numel() == 7
    assert batch.weight.tolist() == [0.5, 0.0]


def test_chosen_only():
    batch = shared_batch([PAIR, SAME_PROMPT], chosen_only=True)
    assert batch.input_ids.tolist() == [[1, 2, 3, 9, 6, 9]]
    assert (batch.chosen.tolist(), batch.rejected.tolist()) == ([0, 1], [])


def test_survives_the_way_from_a_worker_process():
    batch = shared_batch([PAIR])
    assert pickle.loads(pickle.dumps(batch)).segments.stretches == batch.segments.stretches
