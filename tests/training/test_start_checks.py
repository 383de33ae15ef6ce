from dataclasses import dataclass

import pytest
import torch

from lightning_dpo import DPOModule
from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO, IPO, SFT, Hinge, PreferenceLossFunction, pair_logps
from lightning_dpo.training.start_checks import check_columns, check_start
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs


@dataclass(frozen=True)
class ChosenLogratio(PreferenceLossFunction):
    needs_rejected = False
    has_rewards = False

    def losses(self, pairs):
        return -pairs.chosen_logratio


BATCH = padded_batch(random_pairs(4))


def start(function, policy, reference, precision: str = "32-true"):
    with torch.no_grad():
        logps = pair_logps(completion_logps(policy, BATCH), completion_logps(reference, BATCH), BATCH)
    check_start(function, function, function(logps), logps, BATCH, precision, "file:{}".format)


@pytest.mark.parametrize("function", [DPO(0.1), DPO(0.1, 0.2), IPO(0.1), Hinge(0.1)])
def test_a_policy_that_is_its_reference_may_start(function):
    start(function, make_llama(), make_llama())


def test_a_loss_on_chosen_completions_may_start():
    batch = padded_batch(random_pairs(4), chosen_only=True)
    with torch.no_grad():
        logps = pair_logps(completion_logps(make_llama(), batch), completion_logps(make_llama(), batch), batch)
    function = ChosenLogratio()
    check_start(function, function, function(logps), logps, batch, "32-true", "file:{}".format)


def test_a_reference_with_dropout_is_found():
    with pytest.raises(UserError, match=r"before the first update, the policy differs from its reference: .* dropout"):
        start(DPO(0.1), make_llama().eval(), make_llama(attention_dropout=0.1).train())


def test_another_reference_is_found():
    with pytest.raises(
        UserError, match=r"instead of 0, and the mean loss is .* instead of 0.693147 \(file:0, file:1, file:2, file:3\)"
    ):
        start(DPO(0.1), make_llama(), make_llama(seed=1))


def test_rounding_is_not_a_difference_below_fp32():
    sdpa, eager = make_llama(initializer_range=0.05), make_llama(initializer_range=0.05, attn_implementation="eager")
    with torch.autocast("cpu", torch.bfloat16):
        start(DPO(0.1), sdpa, eager, "bf16-mixed")
        with pytest.raises(UserError, match="the policy differs from its reference"):
            start(DPO(0.1), sdpa, eager, "32-true")  # what fp32 would have to answer for


def test_a_loss_that_does_not_start_at_its_value_is_found():
    class Restless(DPO):
        def losses(self, pairs):
            self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
            return super().losses(pairs) + self.calls

    with pytest.raises(UserError, match=r"the mean loss is 1\.69"):
        start(Restless(0.1), make_llama(), make_llama())


def test_a_column_must_be_read_by_the_loss():
    check_columns(DPO(), {"weight", "offset"})
    check_columns(SFT(), {"weight"})
    with pytest.raises(
        UserError, match=r"data.source.offset has no effect: SFT\(\) does not read offset; leave it out"
    ):
        check_columns(SFT(), {"offset"})


@dataclass(frozen=True)
class WithoutRewards(PreferenceLossFunction):
    def losses(self, pairs):
        return pairs.chosen_logratio


class NotADataclass(PreferenceLossFunction):
    has_rewards = False

    def losses(self, pairs):
        return pairs.chosen_logratio


@dataclass(frozen=True)
class UnknownColumn(DPO):
    columns = frozenset({"wieght"})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (DPO, "must be an instance of a dataclass that derives from PreferenceLossFunction, such as DPO"),
        (0.1, "loss=0.1 must be an instance"),
        (NotADataclass(), "must be an instance of a dataclass"),
        (
            UnknownColumn(),
            "loss: UnknownColumn.columns: 'wieght' is not a column; there are label_noise, offset, weight",
        ),
        (WithoutRewards(), r"loss: WithoutRewards does not define rewards\(\)"),
    ],
)
def test_what_is_declared_is_checked_before_a_model_is_opened(loss, message):
    with pytest.raises(UserError, match=message):
        DPOModule("no/model", loss)
