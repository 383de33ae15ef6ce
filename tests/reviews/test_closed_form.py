import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_dpo.reviews import world
from lightning_dpo.reviews.closed_form import ClosedForm, best_accuracy, reward_accuracy


def small_world(beta: float = 0.5, seed: int = 0) -> ClosedForm:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    reference = torch.randn(3, 7, generator=generator, dtype=torch.float64).log_softmax(-1) - 0.1
    return ClosedForm(rewards, reference, beta)


def test_the_optimum_maximises_reward_less_beta_kl():
    """Gradient ascent on E[r] − β KL(π‖π_ref), which knows nothing of Gibbs, ends where the formula says."""
    exact = small_world()
    reference = exact.reference.log_softmax(-1)
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(800):
        logps = logits.log_softmax(-1)
        objective = (logps.exp() * (exact.rewards - 0.5 * (logps - reference))).sum()
        optimizer.zero_grad()
        (-objective).backward()
        optimizer.step()
    torch.testing.assert_close(logits.detach().softmax(-1), exact.optimum.exp(), rtol=0, atol=1e-3)


@given(shift=st.lists(st.floats(-50, 50), min_size=3, max_size=3))
def test_a_function_of_the_prompt_changes_neither_labels_nor_optimum(shift):
    """Z(x) cancels: r(x, y) + f(x) gives the same Bradley-Terry probabilities and the same Gibbs policy."""
    exact = small_world()
    shifted = ClosedForm(exact.rewards + torch.tensor(shift, dtype=torch.float64)[:, None], exact.reference, 0.5)
    torch.testing.assert_close(shifted.optimum, exact.optimum)

    def labels(rewards: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])

    torch.testing.assert_close(labels(shifted.rewards), labels(exact.rewards))


def test_dpos_loss_on_all_pairs_is_least_at_the_optimum():
    """The population loss under Bradley-Terry labels: its gradient in the policy's logits is zero at π*."""
    exact = small_world()
    reference = exact.reference.log_softmax(-1)
    logits = exact.optimum.clone().requires_grad_()
    margins = 0.5 * (logits.log_softmax(-1) - reference)
    margins = margins[:, :, None] - margins[:, None, :]
    wins = torch.sigmoid(exact.rewards[:, :, None] - exact.rewards[:, None, :])
    loss = -(wins * torch.nn.functional.logsigmoid(margins)).sum()
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-10)


def test_no_policy_is_above_the_frontier_and_the_optima_are_on_it():
    exact = small_world()
    generator = torch.Generator().manual_seed(1)
    for spread in (0.1, 1.0, 10.0):
        noise = spread * torch.randn(3, 7, generator=generator, dtype=torch.float64)
        report = exact.report((exact.reference + noise).log_softmax(-1))
        assert report["reward"] < report["frontier_reward"] == exact.frontier_reward(report["kl_reference"])
    for beta, kl, reward in exact.frontier()[::10]:
        report = small_world(beta).report(small_world(beta).optimum)
        assert (kl, reward) == pytest.approx((report["kl_reference"], report["reward"]))
        assert exact.frontier_reward(kl) == pytest.approx(reward, abs=1e-9)


def test_what_the_optimum_itself_is_reported():
    exact = small_world()
    report = exact.report(exact.optimum + torch.tensor(0.9).log())
    assert report["kl_optimum"] == pytest.approx(0, abs=1e-12)
    assert report["reward"] == pytest.approx(report["optimal_reward"])
    assert report["kl_reference"] == pytest.approx(report["optimal_kl_reference"])
    assert report["mass_on_reviews"] == pytest.approx(0.9)


def test_what_the_reference_is_reported():
    exact = small_world()
    report = exact.report(exact.reference)
    assert report["kl_reference"] == pytest.approx(0, abs=1e-12)
    assert report["kl_optimum"] == pytest.approx(report["kl_optimum_before"])
    assert report["reward"] == pytest.approx(report["reference_reward"])


def test_without_beta_there_is_no_optimum():
    assert not [name for name in small_world(beta=None).report(small_world().reference) if "optim" in name]


def test_best_accuracy_is_what_the_true_reward_reaches_on_sampled_pairs():
    from lightning_dpo.reviews import ReviewRows

    pairs = list(ReviewRows(40_000)("train"))
    prompts, reviews, rewards = world.prompts(), world.reviews(), world.rewards()
    right = 0.0
    for row in pairs:
        film = prompts.index(row["prompt"])
        gap = rewards[film, reviews.index(row["chosen"])] - rewards[film, reviews.index(row["rejected"])]
        right += float(torch.sign(gap) / 2 + 0.5)
    assert right / len(pairs) == pytest.approx(float(best_accuracy(rewards)), abs=0.01)


def test_reward_accuracy_counts_pairs_with_different_true_rewards():
    true, probabilities = torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([0.5, 0.25, 0.25])
    assert reward_accuracy(true, true, probabilities) == 1
    assert reward_accuracy(-true, true, probabilities) == 0
    assert reward_accuracy(torch.zeros(1, 3), true, probabilities) == 0.5
    # Right for one of the two better reviews, which are equally likely.
    assert reward_accuracy(torch.tensor([[0.0, 1.0, -1.0]]), true, probabilities) == 0.5


def test_the_expected_length_is_reported_if_lengths_differ():
    exact = small_world()
    words = torch.arange(7, dtype=torch.float64)
    report = ClosedForm(exact.rewards, exact.reference, None, words).report(exact.reference)
    assert report["words"] == pytest.approx(report["reference_words"])
    expected = (exact.reference.softmax(-1) * words).sum(-1).mean().item()
    assert report["words"] == pytest.approx(expected)
