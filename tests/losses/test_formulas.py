"""Every loss against its formula in float64 numpy, written down independently."""

import numpy as np
import pytest
import torch

from lightning_dpo.losses import DPO, IPO, SFT, Hinge
from tests.support.pair_logps import random_logps

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
    "ipo mean": (IPO(BETA), lambda w, r, n_w, n_r, o: (w / n_w - r / n_r - 1 / (2 * BETA) - o / BETA) ** 2),
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
