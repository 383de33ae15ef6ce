import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_dpo.data.steps.sampler import StepSampler, fitting_batch_size
from lightning_dpo.errors import UserError

LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


def summed(tokens: list[int]):
    """The size of a forward pass where pairs have nothing in common."""
    return lambda rows: sum(tokens[row] for row in rows)


def draws(**options) -> list:
    return list(StepSampler(LENGTHS, **{"pairs_per_step": 4, "batch_size": 2, "shuffle": False} | options))


def test_by_hand():
    """Eleven pairs, four to a step, two to a micro-batch: the last step has three pairs, its last micro-batch one."""
    micro_batches = draws()
    assert [list(draw.rows) for draw in micro_batches] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]
    assert [draw.step_pairs for draw in micro_batches] == [4, 4, 4, 4, 3, 3]
    assert [draw.step_chosen_tokens for draw in micro_batches] == [9, 9, 22, 22, 13, 13]


@given(
    pairs=st.integers(1, 60), per_rank=st.integers(1, 5), batch_size=st.integers(1, 4), ranks=st.integers(1, 4),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_ranks_deal_out_every_pair_once_in_equally_many_micro_batches(pairs, per_rank, batch_size, ranks, seed):
    step = per_rank * batch_size * ranks
    samplers = [
        StepSampler([1] * pairs, step, batch_size, num_replicas=ranks, rank=rank, seed=seed) for rank in range(ranks)
    ]
    dealt = [list(sampler) for sampler in samplers]
    slots = [slot for draw in itertools.chain(*dealt) for slot in zip(draw.rows, draw.counted, strict=True)]
    counted = [row for row, real in slots if real]
    assert sorted(counted) == list(range(pairs))
    assert {len(draws) for draws in dealt} == {len(samplers[0])}


@given(pairs=st.integers(1, 60), per_step=st.integers(1, 5), batch_size=st.integers(1, 4), ranks=st.integers(1, 4))
def test_the_micro_batches_of_a_step_are_the_same_on_any_number_of_devices(pairs, per_step, batch_size, ranks):
    def counted(replicas: int, tokens) -> list[tuple]:
        sizes = {"pairs_per_step": per_step * batch_size * ranks, "batch_size": batch_size, "tokens": tokens}
        samplers = [StepSampler([1] * pairs, num_replicas=replicas, rank=rank, **sizes) for rank in range(replicas)]
        return sorted(tuple(draw.rows) for draw in itertools.chain(*samplers) if all(draw.counted))

    for tokens in (None, summed([row % 7 + 1 for row in range(pairs)])):
        assert counted(1, tokens) == counted(ranks, tokens)


def test_tokens_are_dealt_evenly_over_micro_batches_and_devices():
    """Lengths as those of answers are: a few very long ones. In order, micro-batches differ a lot."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.empty(640).log_normal_(4, 0.8, generator=generator).int().clamp(8, 2000).tolist()
    samplers = [StepSampler([1] * 640, 64, 8, tokens=summed(tokens), num_replicas=2, rank=rank) for rank in range(2)]
    of_steps = []
    for sampler in samplers:
        sizes = [sum(tokens[row] for row in draw.rows) for draw in sampler]
        of_steps.append([sum(sizes[start : start + 4]) for start in range(0, len(sizes), 4)])
    for one, other in zip(*of_steps, strict=True):
        assert max(one, other) / min(one, other) < 1.1


PROMPTS = [0, 1, 0, 2, 1, 0, 3, 2, 0, 4, 1]


def test_pairs_of_one_prompt_follow_each_other():
    """In order, by the first pair of each prompt; the prompts' own order is shuffled like that of single pairs."""
    assert [row for draw in draws(prompts=PROMPTS) for row in draw.rows] == [0, 2, 5, 8, 1, 4, 10, 3, 7, 6, 9]
    shuffled = [PROMPTS[row] for draw in draws(prompts=PROMPTS, shuffle=True, seed=1) for row in draw.rows]
    assert sum(one != other for one, other in itertools.pairwise(shuffled)) == 4
    assert shuffled != [PROMPTS[row] for draw in draws(prompts=PROMPTS, shuffle=True, seed=2) for row in draw.rows]


def test_pairs_of_one_prompt_are_in_one_micro_batch_where_they_fit():
    """Eight pairs to a step, four to a micro-batch: 0 2 5 8 | 1 4 10 + 3 7 in part | then what is left."""
    micro_batches = draws(prompts=PROMPTS, pairs_per_step=8, batch_size=4, tokens=len)
    assert {frozenset(draw.rows) for draw in micro_batches} == {
        frozenset({0, 2, 5, 8}),
        frozenset({1, 4, 10, 3}),
        frozenset({7, 6, 9}),
    }


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = StepSampler(LENGTHS, 4, 2, seed=seed)
        sampler.set_epoch(epoch)
        return [row for draw in sampler for row in draw.rows]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*at)) for at in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4


def test_a_resumed_epoch_resumes_after_what_was_trained_and_the_next_is_whole():
    sampler = StepSampler(LENGTHS, 4, 2, seed=3)
    whole = list(sampler)
    sampler.steps = 2
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole
    assert len(sampler) == len(whole)


def test_the_batch_size_is_the_largest_that_divides_a_devices_share():
    assert fitting_batch_size(64, 8, 2) == 8
    assert fitting_batch_size(64, 8, 16) == 4  # two nodes of eight GPUs with the defaults
    assert fitting_batch_size(128, 128, 2) == 64  # the default run on two devices
    assert fitting_batch_size(20, 8, 1) == 5
    with pytest.raises(UserError, match=r"pairs_per_step=20 is not a multiple of 3 devices: set it to 18 or 21"):
        fitting_batch_size(20, 8, 3)
    with pytest.raises(UserError, match=r"pairs_per_step=3 is not a multiple of 4 devices: set it to 4$"):
        fitting_batch_size(3, 1, 4)
