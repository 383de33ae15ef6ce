import pytest
import torch

from lightning_dpo.errors import UserError
from lightning_dpo.losses import PreferenceLoss
from lightning_dpo.training.step_checks import StepRecord, check_finite
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
    with pytest.raises(UserError, match=r"the gradient of the step \(file:0, file:1, file:2, file:3\) is not finite"):
        check_finite(torch.tensor(float("inf")), record, "file:{}".format)
    check_finite(torch.tensor(1.0), record, "file:{}".format)
