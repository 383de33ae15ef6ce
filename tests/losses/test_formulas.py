"""Every loss against its formula in float64 numpy, written independently, and its gradient against differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_dpo.batch import CompletionLogps
from lightning_dpo.losses import DPO, IPO, SFT, BetaDPO, Hinge, PairLogps, TwoWay
from tests.support.losses import CASES, Values
from tests.support.pair_logps import logps_of, pairs_of, random_logps

every = pytest.mark.parametrize("name", CASES)


@every
def test_equals_its_formula(name):
    loss, pairs = CASES[name].loss, random_logps()
    np.testing.assert_allclose(loss(pairs).losses.numpy(), CASES[name].formula(Values.of(pairs)), rtol=1e-5, atol=1e-5)


def extremes(sums: torch.Tensor) -> PairLogps:
    """One-token answers: all combinations of log-probs of −1e4, a moderate one, and 0, and equal ones."""
    columns = torch.cartesian_prod(*[sums] * 4)
    lengths = torch.ones(len(columns))
    return pairs_of(columns.T, (lengths, lengths), torch.zeros(len(columns)), [one[:, None] for one in columns.T])


@every
def test_is_finite_and_equals_its_formula_at_extreme_log_probs(name):
    pairs = extremes(torch.tensor([-1e4, -2.5, 0.0]))
    leaf = pairs.chosen.clone().requires_grad_()
    chosen = CompletionLogps(leaf, pairs.chosen_length, leaf[:, None])
    losses = CASES[name].loss.losses(replace(pairs, policy=(chosen, pairs.policy[1])))
    losses.sum().backward()
    assert leaf.grad.isfinite().all()
    if name == "beta_dpo":  # of equally distant outliers, it is arbitrary which are left out
        assert losses.isfinite().all()
        return
    np.testing.assert_allclose(losses.detach().numpy(), CASES[name].formula(Values.of(pairs)), rtol=1e-4, atol=1e-4)


@every
def test_gradient_is_that_of_finite_differences(name):
    loss, pairs = CASES[name].loss, random_logps()
    if isinstance(loss, BetaDPO):
        loss = replace(loss, alpha=0.0)  # β has no gradient by definition, and differences would include it
    lengths = [side.double() for side in (pairs.chosen_length, pairs.rejected_length)]
    reference = [side.tokens.double() for side in pairs.reference]

    def losses(*policy):
        tokens = (*policy, *reference)
        return loss.losses(pairs_of([one.sum(1) for one in tokens], lengths, pairs.offset.double(), tokens))

    leaves = [side.tokens.double().requires_grad_() for side in pairs.policy]
    assert torch.autograd.gradcheck(losses, leaves)


@every
def test_rewards_have_no_gradient_and_order_the_answers(name):
    loss, pairs = CASES[name].loss, random_logps(offset=False)
    tokens = pairs.chosen_tokens.requires_grad_()
    chosen = CompletionLogps(tokens.sum(1), pairs.chosen_length, tokens)
    result = loss(replace(pairs, policy=(chosen, pairs.policy[1])))
    assert result.losses.requires_grad
    if loss.has_rewards:
        assert not result.chosen_rewards.requires_grad
        better = replace(pairs, policy=(CompletionLogps(pairs.chosen + 1, pairs.chosen_length), pairs.policy[1]))
        assert (loss.pair_rewards(better)[0] > result.chosen_rewards).all()
    assert set(result.logged) == set(loss.logged)


def test_terms_of_composed_losses_are_logged_and_sum_to_the_loss():
    pairs = random_logps()
    for name, terms in {
        "rpo": ["preference", "sft"],
        "mpo": ["dpo", "bco", "sft"],
        "cpo": ["preference", "sft"],
    }.items():
        result = CASES[name].loss(pairs)
        assert list(result.logged) == [f"loss/{term}" for term in terms]
        torch.testing.assert_close(sum(result.logged.values()), result.losses)


def test_label_noise_is_the_expected_loss_over_labels():
    pairs = random_logps()
    noise = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    for loss in (DPO(0.3), IPO(0.3), TwoWay(0.3), CASES["rpo"].loss):
        expected = (1 - noise) * loss.losses(pairs) + noise * loss.losses(pairs.swapped())
        torch.testing.assert_close(loss(replace(pairs, label_noise=noise)).losses, expected)
    # For DPO, it is label smoothing with a value per pair.
    smoothed = torch.stack([DPO(0.3, e).losses(pairs)[i] for i, e in enumerate([0, 0.1, 0.2, 0.3, 0.4])])
    torch.testing.assert_close(DPO(0.3)(replace(pairs, label_noise=noise)).losses[:5], smoothed)


def test_a_tie_has_no_gradient_at_the_reference():
    chosen = torch.tensor([-3.0], requires_grad=True)
    pairs = replace(logps_of(chosen, [-4.0], [-3.0], [-4.0]), label_noise=torch.tensor([0.5]))
    DPO(1.0)(pairs).losses.sum().backward()
    assert chosen.grad.item() == pytest.approx(0, abs=1e-7)


def test_sft_is_the_mean_over_the_chosen_tokens():
    pairs = random_logps()
    torch.testing.assert_close(SFT()(pairs).losses.mean(), -pairs.chosen.sum() / pairs.chosen_length.sum())


def test_an_ipo_offset_is_per_answer_in_both_forms():
    """Of answers of equal length n, a reward margin that is larger by the offset gives the same loss in both forms."""
    beta, offset, length = 0.5, 1.5, 40.0
    for normalize, scale in (("sum", 1.0), ("mean", length)):
        ratio = scale * 0.5 / beta
        plain = logps_of([ratio], [0.0], [0.0], [0.0], lengths=(length, length))
        with_offset = logps_of([ratio + offset / beta], [0.0], [0.0], [0.0], offset=[offset], lengths=(length, length))
        for pairs in (plain, with_offset):
            assert IPO(beta, normalize)(pairs).losses.item() == pytest.approx(0, abs=1e-10)


def test_rewards_are_defined_for_any_completions():
    """`evaluate --score` has single answers and no pairs."""
    policy, reference = CompletionLogps(torch.tensor([-1.0, -4.0, -2.0]), torch.ones(3)), torch.tensor([-2.0, -2.0, -2])
    for loss in (DPO(0.5), IPO(0.5), Hinge(0.5)):
        rewards = loss.rewards(policy, CompletionLogps(reference, torch.ones(3)))
        torch.testing.assert_close(rewards, torch.tensor([0.5, -1.0, 0.0]))
