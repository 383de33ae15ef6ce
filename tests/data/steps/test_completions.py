import pytest
from datasets import Dataset

from lightning_dpo.data.steps.completions import Completions
from lightning_dpo.data.tokens.digests import completion_key

# Two prompts; the first has three completions in three pairs.
PROMPTS = [[1, 2, 3], [1, 2, 3], [1, 2, 3], [4]]
CHOSEN = [[5, 9], [5, 9], [6, 9], [7, 7, 7, 9]]
REJECTED = [[6, 9], [8, 8, 9], [8, 8, 9], [8, 9]]


@pytest.fixture
def tokens() -> Dataset:
    columns = {"prompt_ids": PROMPTS, "chosen_ids": CHOSEN, "rejected_ids": REJECTED}
    columns |= {f"{side}_scored": [None] * 4 for side in ("chosen", "rejected")}
    columns |= {
        f"{side}_key": [completion_key(prompt, ids, None) for prompt, ids in zip(PROMPTS, answers, strict=True)]
        for side, answers in (("chosen", CHOSEN), ("rejected", REJECTED))
    }
    return Dataset.from_dict(columns)


def texts(completions: Completions, batches) -> list[list[tuple]]:
    """Prompt and completion of every item of every batch."""
    made = [completions.micro_batch(batch).pairs for batch in batches]
    return [[(tuple(pair.prompt_ids), tuple(pair.chosen_ids)) for pair in pairs] for pairs in made]


def test_every_completion_is_there_once_with_its_prompt(tokens):
    completions = Completions(tokens, chosen_only=False)
    found = [item for batch in texts(completions, completions.batches(1000, shared=True)) for item in batch]
    wanted = {(tuple(p), tuple(ids)) for answers in (CHOSEN, REJECTED) for p, ids in zip(PROMPTS, answers, strict=True)}
    assert len(found) == len(completions.keys) == 5
    assert set(found) == wanted


def test_rejected_completions_can_be_left_out(tokens):
    assert len(Completions(tokens, chosen_only=True).keys) == 3


@pytest.mark.parametrize(("shared", "most"), [(True, 8), (True, 5), (False, 10), (False, 5)])
def test_no_batch_has_more_tokens_than_allowed(tokens, shared, most):
    completions = Completions(tokens, chosen_only=False)
    batches = texts(completions, completions.batches(most, shared))
    assert sum(map(len, batches)) == 5
    for batch in batches:
        rows = [len(prompt) + len(ids) for prompt, ids in batch]
        stream = sum(len(ids) for _, ids in batch) + sum(map(len, {prompt for prompt, _ in batch}))
        assert len(batch) == 1 or (stream if shared else max(rows) * len(rows)) <= most


def test_a_key_depends_on_prompt_answer_and_mask_only():
    key = completion_key([1, 2], [3, 4], None)
    assert len(key) == 16
    assert key == completion_key([1, 2], [3, 4], [True, True])
    others = [
        completion_key([1], [2, 3, 4], None), completion_key([1, 2], [3], None),
        completion_key([1, 2], [3, 4], [True, False]), completion_key([1, 9], [3, 4], None),
    ]  # fmt: skip
    assert len({key, *others}) == 5
