import torch

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.layouts import PaddedLayout
from tests.support.pairs import padded_batch, random_pairs

PAIR = TokenizedPair(7, [1, 2], [3, 9], [4, 5, 9], weight=0.5, offset=0.25, source=1)


def test_one_pair_by_hand():
    """Rows `1 2 3 9 .` and `1 2 4 5 9`: the tokens before 3, 9 and 4, 5, 9 stand at 1, 2 and at 6, 7, 8."""
    batch = PaddedLayout(pad_token_id=0)(MicroBatch([PAIR], [True], 4, 20))
    assert batch.input_ids.tolist() == [[1, 2, 3, 9, 0], [1, 2, 4, 5, 9]]
    assert batch.score_index.tolist() == [1, 2, 6, 7, 8]
    assert batch.target_ids.tolist() == [3, 9, 4, 5, 9]
    assert batch.completion_index.tolist() == [0, 0, 1, 1, 1]
    assert batch.completion_lengths.tolist() == [2.0, 3.0]
    assert (batch.chosen.tolist(), batch.rejected.tolist()) == ([0], [1])
    assert (batch.pair_index.item(), batch.weight.item(), batch.offset.item(), batch.source.item()) == (7, 0.5, 0.25, 1)
    assert (batch.step_pairs.item(), batch.step_chosen_tokens.item()) == (4, 20)


def test_what_is_scored_does_not_depend_on_the_pad_token():
    """Pads are told by length: an id that also occurs in the text pads as well as any other."""
    micro_batch = MicroBatch(random_pairs(5), [True] * 5, 5, 9)
    zero, nine = PaddedLayout(0)(micro_batch), PaddedLayout(9)(micro_batch)
    assert torch.equal(zero.score_index, nine.score_index)
    assert torch.equal(zero.target_ids, nine.target_ids)


def test_every_completion_token_is_a_target_once():
    pairs = random_pairs(6)
    batch = padded_batch(pairs)
    for row, pair in enumerate(pairs):
        assert batch.target_ids[batch.completion_index == batch.chosen[row]].tolist() == pair.chosen_ids
        assert batch.target_ids[batch.completion_index == batch.rejected[row]].tolist() == pair.rejected_ids


def test_a_pair_that_fills_up_has_no_weight():
    batch = PaddedLayout(0)(MicroBatch([PAIR, PAIR], [True, False], 1, 2))
    assert batch.weight.tolist() == [0.5, 0.0]


def test_chosen_only():
    batch = padded_batch(random_pairs(4), chosen_only=True)
    assert len(batch.input_ids) == 4
    assert len(batch.rejected) == 0
