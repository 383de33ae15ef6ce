from dataclasses import dataclass

import pytest
import torch

from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO, PreferenceLoss, pair_logps
from lightning_dpo.training.step_checks import StepRecord, check_finite, checked_loss
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs

BATCH = padded_batch(random_pairs(4))


def test_a_loss_that_is_not_finite_names_its_rows():
    record = StepRecord()
    record.add(BATCH, PreferenceLoss(torch.tensor([1.0, float("inf"), 2.0, float("nan")])))
    for norm in (float("nan"), 1.0):  # a loss may be infinite where its gradient is not
        with pytest.raises(UserError, match="the loss of file:1, file:3 is not finite"):
            check_finite(torch.tensor(norm), record, "file:{}".format)


def test_a_gradient_that_is_not_finite_names_the_steps_rows():
    record = StepRecord()
    record.add(BATCH, PreferenceLoss(torch.ones(4)))
    with pytest.raises(UserError, match="the gradient of file:0, file:1, file:2, file:3 is not finite"):
        check_finite(torch.tensor(float("inf")), record, "file:{}".format)
    check_finite(torch.tensor(1.0), record, "file:{}".format)


class Mean(DPO):
    """A mean over pairs instead of one loss per pair, as PyTorch's losses return by default."""

    def losses(self, pairs):
        return super().losses(pairs).mean()


class Unscaled(DPO):
    def rewards(self, policy, reference):
        return (policy.sums - reference.sums).mean()


class Bare(DPO):
    def losses(self, pairs):
        return float(super().losses(pairs).sum())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Mean(0.1), r"loss: Mean\.losses\(\) must return one value per pair, shape \(4,\).*; it returned shape \(\)"),
        (Unscaled(0.1), r"loss: Unscaled\.rewards\(\) must return one value per completion"),
        (Bare(0.1), r"loss: Bare\.losses\(\) .* it returned float"),
    ],
)
def test_a_loss_must_return_one_value_per_pair(loss, message):
    with torch.no_grad():
        logps = completion_logps(make_llama(), BATCH)
    pairs = pair_logps(logps, logps, BATCH)
    with pytest.raises(UserError, match=message):
        checked_loss(loss, pairs)
    assert checked_loss(DPO(0.1), pairs).losses.shape == (4,)


def test_a_loss_that_reads_what_it_does_not_declare_is_named():
    with torch.no_grad():
        logps = completion_logps(make_llama(), BATCH)
    with pytest.raises(UserError, match="loss: DPO: reference log-probs were not computed; see needs_reference"):
        checked_loss(DPO(0.1), pair_logps(logps, None, BATCH))


def test_a_loss_that_computes_with_missing_log_probs_is_named():
    @dataclass(frozen=True)
    class ReadsReference(DPO):
        needs_reference = False

        def losses(self, pairs):
            return pairs.chosen - pairs.reference_chosen

    with torch.no_grad():
        logps = completion_logps(make_llama(), BATCH)
    with pytest.raises(UserError, match="loss: ReadsReference reads log-probs that needs_reference or needs_rejected"):
        checked_loss(ReadsReference(0.1), pair_logps(logps, None, BATCH))


def test_a_loss_without_a_gradient_is_named():
    class Detached(DPO):
        def losses(self, pairs):
            return super().losses(pairs).detach()

    logps = completion_logps(make_llama(), BATCH)
    pairs = pair_logps(logps, completion_logps(make_llama(seed=1), BATCH), BATCH)
    with pytest.raises(UserError, match=r"loss: Detached.losses\(\) has no gradient"):
        checked_loss(Detached(0.1), pairs)
    with torch.no_grad():
        checked_loss(Detached(0.1), pairs)
