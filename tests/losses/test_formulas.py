"""Every loss against its formula in float64 numpy, written down independently."""

import numpy as np
import pytest
import torch

from lightning_dpo.batch import CompletionLogps
from lightning_dpo.losses import DPO, IPO, SFT, Hinge
from tests.support.pair_logps import logps_of, random_logps

BETA, EPSILON = 0.3, 0.1


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


FORMULAS = {
    "dpo": (DPO(BETA), lambda w, r, n_w, n_r, o: -log_sigmoid(BETA * (w - r) - o)),
    "cdpo": (
        DPO(BETA, EPSILON),
        lambda w, r, n_w, n_r, o: (
            -(1 - EPSILON) * log_sigmoid(BETA * (w - r) - o) - EPSILON * log_sigmoid(-(BETA * (w - r) - o))
        ),
    ),
    "ipo mean": (
        IPO(BETA),
        lambda w, r, n_w, n_r, o: (w / n_w - r / n_r - 1 / (2 * BETA) - 2 * o / (n_w + n_r) / BETA) ** 2,
    ),
    "ipo sum": (IPO(BETA, "sum"), lambda w, r, n_w, n_r, o: (w - r - 1 / (2 * BETA) - o / BETA) ** 2),
    "hinge": (Hinge(BETA), lambda w, r, n_w, n_r, o: np.maximum(0, 1 - (BETA * (w - r) - o))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_its_formula(name):
    loss, formula = FORMULAS[name]
    logps = random_logps()
    w = (logps.chosen.double() - logps.reference_chosen.double()).numpy()
    r = (logps.rejected.double() - logps.reference_rejected.double()).numpy()
    n_w, n_r, offset = logps.chosen_length.numpy(), logps.rejected_length.numpy(), logps.offset.double().numpy()
    result = loss(logps)
    np.testing.assert_allclose(result.losses.numpy(), formula(w, r, n_w, n_r, offset), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.chosen_rewards.numpy(), BETA * w, rtol=1e-5)
    np.testing.assert_allclose(result.rejected_rewards.numpy(), BETA * r, rtol=1e-5)


def test_sft_is_the_mean_over_the_chosen_tokens():
    logps = random_logps()
    expected = -logps.chosen.sum() / logps.chosen_length.sum()
    torch.testing.assert_close(SFT()(logps).losses.mean(), expected)


@pytest.mark.parametrize("name", FORMULAS)
def test_rewards_carry_no_gradient(name):
    logps = random_logps()
    logps.chosen.requires_grad_()
    result = FORMULAS[name][0](logps)
    assert result.losses.requires_grad
    assert not result.chosen_rewards.requires_grad


def test_ipo_names_its_two_forms():
    with pytest.raises(ValueError, match="normalize must be mean or sum, got 'median'"):
        IPO(normalize="median")


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
