"""Samples are of the distribution that was trained, and their KL is compared with one that is summed out."""

import pytest
import torch
from transformers import GenerationConfig

from lightning_dpo.losses import DPO
from lightning_dpo.models.generation import Writer, repetition
from lightning_dpo.models.lora import LoRA
from lightning_dpo.models.reference import FrozenModel
from lightning_dpo.models.reference_factories import Auto
from tests.support.exact_kl import exact_kl
from tests.support.models import make_llama

END = 0
SMALL = {"vocab_size": 7, "initializer_range": 0.6}


def writer(**options) -> Writer:
    return Writer(**{"ends": frozenset({END}), "pad_token_id": END, "max_new_tokens": 4} | options)


@torch.no_grad()
def test_the_kl_of_samples_is_that_over_all_answers():
    """Within three standard errors, for three distances between policy and reference."""
    reference = make_llama(**SMALL).eval()
    for distance in (0.1, 0.5, 1.0):
        policy, other = make_llama(**SMALL).eval(), make_llama(seed=1, **SMALL)
        for ours, theirs in zip(policy.parameters(), other.parameters(), strict=True):
            ours.lerp_(theirs, distance)
        prompts = [[1, 2, 3]] * 300
        write = writer(batch_size=100, max_new_tokens=3)
        kls = write.kl(policy, FrozenModel(reference, False), prompts, write.answers(policy, prompts))
        exact = exact_kl(policy, reference, [1, 2, 3], 3, END)
        assert abs(float(kls.mean()) - exact) < 3 * float(kls.std()) / 300**0.5
        assert exact > 0.01


@torch.no_grad()
def test_samples_follow_the_model_and_not_its_generation_config():
    """Frequencies of first tokens against their probabilities, with advice that would leave one token."""
    model = make_llama(**SMALL).eval()
    model.generation_config = advised = GenerationConfig(top_k=1, repetition_penalty=9.0, eos_token_id=5, max_length=4)
    prompts = [[1, 2, 3]] * 4000
    first = torch.tensor([ids[0] for ids in writer(batch_size=4000, max_new_tokens=1).answers(model, prompts)])
    frequencies = torch.bincount(first, minlength=7) / 4000
    probabilities = model(torch.tensor([[1, 2, 3]])).logits[0, -1].softmax(-1)
    spread = (probabilities * (1 - probabilities) / 4000).sqrt()
    assert ((frequencies - probabilities).abs() < 4 * spread + 1e-3).all()
    assert model.generation_config is advised


def test_prompts_of_unequal_length_get_the_answers_they_get_separately():
    model, prompts = make_llama().eval(), [[5], [9, 8, 7, 6, 5], [3, 4]]
    together = writer(greedy=True, max_new_tokens=9).answers(model, prompts)
    alone = [writer(greedy=True, max_new_tokens=9).answers(model, [prompt])[0] for prompt in prompts]
    assert together == alone


def test_answers_end_with_what_ends_them_and_are_cut_off_otherwise():
    model = make_llama(**SMALL)
    answers = writer(ends=frozenset({2, 4}), max_new_tokens=20, batch_size=64).answers(model, [[1]] * 64)
    for ids in answers:
        assert not {2, 4} & set(ids[:-1])
        assert ids[-1] in (2, 4) or len(ids) == 20
    assert len({len(ids) for ids in answers}) > 1


def test_equal_models_write_equal_answers_and_the_global_generator_does_not_change():
    policy = LoRA(r=2)(make_llama()).train()
    reference = Auto()(policy, DPO())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    prompts = [[1, 2], [3, 4, 5]]
    answers = writer(max_new_tokens=10).answers(policy, prompts)
    with reference.active() as model:
        assert writer(max_new_tokens=10).answers(model, prompts) == answers
    assert torch.equal(torch.get_rng_state(), before)
    assert policy.training
    assert writer(max_new_tokens=10, seed=1).answers(policy, prompts) != answers
    assert writer().kl(policy, reference, prompts, answers).tolist() == [0.0, 0.0]


def test_facts_are_length_end_and_repetition():
    facts = writer().facts([[1, 2, END], [3] * 13])
    assert facts.tolist() == [[3, 1, 0], [13, 0, pytest.approx(0.9)]]
    assert repetition([1, 2, 3]) == 0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(0.2)
