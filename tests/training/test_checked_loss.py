from dataclasses import dataclass

import pytest
import torch

from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO, BetaDPO, PreferenceLossFunction, pair_logps
from lightning_dpo.training.checked_loss import checked_loss, checked_rewards
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs

BATCH = padded_batch(random_pairs(4))


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
    with pytest.raises(
        UserError, match=r"loss: DPO: reference log-probs were not computed, because .* needs_reference"
    ):
        checked_loss(DPO(0.1), pair_logps(logps, None, BATCH))


@dataclass(frozen=True)
class Undeclared(PreferenceLossFunction):
    """A loss and rewards that need a reference and tokens, without declaring them."""

    needs_reference = False
    reads: str = "tokens"

    def losses(self, pairs):
        return pairs.chosen_tokens.sum(1) if self.reads == "tokens" else pairs.chosen

    def rewards(self, policy, reference):
        return policy.sums - reference.sums


def test_log_probs_that_are_not_declared_are_named():
    with torch.no_grad():
        pairs = pair_logps(completion_logps(make_llama(), BATCH), None, BATCH)
    with pytest.raises(UserError, match=r"Undeclared: log-probs of tokens were not computed.* needs_tokens = False"):
        checked_loss(Undeclared(), pairs)
    for function in (
        lambda: checked_loss(Undeclared("sums"), pairs),
        lambda: checked_rewards(Undeclared("sums"), pairs.policy[0], None),
    ):
        with pytest.raises(UserError, match="Undeclared reads reference log-probs, but has needs_reference = False"):
            function()


def test_logged_values_must_have_the_declared_names():
    class Renamed(BetaDPO):
        def logged_values(self, pairs):
            return {"b": pairs.chosen}

    with torch.no_grad():
        logps = completion_logps(make_llama(), BATCH)
    with pytest.raises(UserError, match=r"the names in logged, \['beta'\]; it returned \['b'\]"):
        checked_loss(Renamed(), pair_logps(logps, logps, BATCH))


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


def test_rewards_of_tokens_instead_of_completions_are_named():
    class PerToken(DPO):
        needs_tokens = True

        def rewards(self, policy, reference):
            return policy.tokens - reference.tokens  # the sum over tokens is missing

    with torch.no_grad():
        policy, reference = (completion_logps(make_llama(seed), BATCH, tokens=True) for seed in (0, 1))
    with pytest.raises(UserError, match=r"PerToken\.rewards\(\) must return one value per completion, shape \(4,\)"):
        checked_loss(PerToken(0.1), pair_logps(policy, reference, BATCH))
