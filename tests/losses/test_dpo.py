import math

import pytest
import torch

from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO, pair_logps
from tests.support.pair_logps import logps_of, random_logps
from tests.support.pairs import padded_batch, random_pairs


def test_by_hand():
    """β 0.5; log-ratios 2 and −1, so the margin is 1.5: −log σ(1.5) = log(1 + e^−1.5)."""
    logps = logps_of(chosen=[-8.0], rejected=[-9.0], reference_chosen=[-10.0], reference_rejected=[-8.0])
    loss = DPO(beta=0.5)(logps)
    assert loss.losses.item() == pytest.approx(math.log1p(math.exp(-1.5)))
    assert (loss.chosen_rewards.item(), loss.rejected_rewards.item()) == (1.0, -0.5)


def test_label_smoothing_is_the_expected_loss_under_flipped_labels():
    logps = random_logps()
    flipped = logps_of(logps.rejected, logps.chosen, logps.reference_rejected, logps.reference_chosen)
    plain = logps_of(logps.chosen, logps.rejected, logps.reference_chosen, logps.reference_rejected)
    expected = 0.8 * DPO(0.3)(plain).losses + 0.2 * DPO(0.3)(flipped).losses
    torch.testing.assert_close(DPO(0.3, label_smoothing=0.2)(plain).losses, expected)


def test_an_offset_moves_the_margin_that_is_asked_for():
    logps = logps_of([-8.0], [-9.0], [-10.0], [-8.0], offset=[0.5])
    assert DPO(beta=0.5)(logps).losses.item() == pytest.approx(math.log1p(math.exp(-1.0)))


@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_is_finite_at_any_margin(margin):
    chosen = torch.tensor([margin], requires_grad=True)
    losses = DPO(beta=1.0, label_smoothing=0.1)(logps_of(chosen, [0.0], [0.0], [0.0])).losses
    losses.sum().backward()
    assert losses.isfinite().all()
    assert chosen.grad.isfinite().all()


def test_starts_at_ln_2_whatever_the_smoothing():
    logps = random_logps(offset=False).at_start()
    for loss in (DPO(0.1), DPO(2.0), DPO(0.5, label_smoothing=0.3)):
        torch.testing.assert_close(loss(logps).losses, torch.full((6,), math.log(2)))


def test_gradient_is_that_of_the_paper(llama):
    """−β σ(r̂_l − r̂_w) (∇ log π(y_w|x) − ∇ log π(y_l|x)): the gradient as section 4 of the paper writes it."""
    beta, batch = 0.7, padded_batch(random_pairs(1))
    with torch.no_grad():
        reference = completion_logps(llama, batch)
        for parameter in llama.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    loss = DPO(beta)(pair_logps(completion_logps(llama, batch), reference, batch))
    gradient = torch.autograd.grad(loss.losses.sum(), llama.parameters())

    sums = completion_logps(llama, batch).sums
    weight = beta * torch.sigmoid(loss.rejected_rewards - loss.chosen_rewards).item()
    of_chosen = torch.autograd.grad(sums[0], llama.parameters(), retain_graph=True)
    of_rejected = torch.autograd.grad(sums[1], llama.parameters())
    for actual, chosen, rejected in zip(gradient, of_chosen, of_rejected, strict=True):
        torch.testing.assert_close(actual, -weight * (chosen - rejected), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("beta", [0, -1, float("nan"), float("inf"), "0.1", True])
def test_rejects_a_beta_that_is_not_a_positive_number(beta):
    with pytest.raises(ValueError, match="beta must be a positive number"):
        DPO(beta=beta)


@pytest.mark.parametrize("label_smoothing", [-0.1, 0.5, "no"])
def test_rejects_a_label_smoothing_that_is_not_below_one_half(label_smoothing):
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        DPO(label_smoothing=label_smoothing)
