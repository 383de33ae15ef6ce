from dataclasses import dataclass

import pytest
import torch

from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO, PreferenceLoss, PreferenceLossFunction, pair_logps
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


@dataclass(frozen=True)
class Mean(PreferenceLossFunction):
    """What a first loss of one's own may look like: it returns a mean, or no `PreferenceLoss` at all."""

    bare: bool

    def __call__(self, logps):
        mean = -logps.chosen_logratio.mean()
        return mean if self.bare else PreferenceLoss(mean)


@pytest.mark.parametrize("bare", [False, True])
def test_a_loss_must_be_one_of_every_pair(bare):
    with torch.no_grad():
        logps = completion_logps(make_llama(), BATCH)
    pairs = pair_logps(logps, logps, BATCH)
    with pytest.raises(UserError, match="loss: Mean must return a PreferenceLoss with one loss per pair"):
        checked_loss(Mean(bare), pairs)
    assert checked_loss(DPO(0.1), pairs).losses.shape == (4,)
