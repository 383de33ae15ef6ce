import pytest
import torch

from lightning_dpo.reviews import world
from lightning_dpo.reviews.callback import all_logps, sample_reviews
from lightning_dpo.reviews.policy import TinyReviewer, pretrained_weights


@pytest.fixture(scope="module")
def reviewer():
    source = TinyReviewer()
    return source.policy(), source.tokenizer()


def test_it_writes_reviews(reviewer):
    mass = all_logps(*reviewer).double().exp().sum(-1)
    assert mass.shape == (len(world.FILMS),)
    assert mass.min() >= 0.99


def test_the_critics_differ(reviewer):
    """A uniform reference would make KL(π‖π_ref) an entropy, and hide a mistake in it."""
    logps = all_logps(*reviewer).log_softmax(-1)
    uniform = torch.tensor(1 / len(world.reviews())).log()
    assert (logps.exp() * (logps - uniform)).sum(-1).min() > 0.05


def test_the_same_seed_gives_the_same_policy_and_does_not_change_the_global_generator():
    short = TinyReviewer(teaching_steps=3)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = short.policy()
    assert torch.rand(1) == expected
    pretrained_weights.cache_clear()
    for one, two in zip(first.parameters(), short.policy().parameters(), strict=True):
        assert torch.equal(one, two)


def test_models_of_one_process_share_their_pretraining_and_not_their_weights(monkeypatch):
    short = TinyReviewer(teaching_steps=3, seed=5)
    first = short.policy()
    expected = [one.clone() for one in first.parameters()]
    with torch.no_grad():
        for one in first.parameters():
            one.zero_()
    monkeypatch.setattr(torch.Tensor, "backward", None)  # nothing is trained
    for one, two in zip(expected, short.policy().parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_defaults_of_lightning_do_not_change_the_model(dtype):
    """With `bf16-true` or `64-true`, or on another device, Lightning opens models with other defaults."""
    short = TinyReviewer(teaching_steps=3)
    expected = short.policy()
    pretrained_weights.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            found = short.policy()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, two in zip(expected.parameters(), found.parameters(), strict=True):
        assert one.dtype == two.dtype == torch.float32
        assert torch.equal(one, two)


def test_samples_are_reviews_and_repeat(reviewer):
    samples = sample_reviews(*reviewer, count=4)
    reviews = {review.strip() for review in world.reviews()}
    assert sum(sample in reviews for film in samples for sample in film) >= 14
    assert samples == sample_reviews(*reviewer, count=4)


def test_scores_of_reviews_are_those_of_one_review(reviewer):
    model, tokenizer = reviewer
    ids = torch.tensor([[*tokenizer(world.prompts()[2] + world.reviews()[100]).input_ids, tokenizer.eos_token_id]])
    logps = model(ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])[0, -4:].sum()
    torch.testing.assert_close(all_logps(model, tokenizer)[2, 100], logps.detach())
