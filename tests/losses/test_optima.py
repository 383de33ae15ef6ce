"""Every loss, minimized on all pairs of a world that can be enumerated: the optimum of its paper, or its frontier."""

import pytest

from lightning_dpo.reviews.closed_form import ClosedForm
from tests.support.losses import BETA, CASES
from tests.support.optima import gibbs, minimized, small_world

WORLD = small_world()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.optimum])
def test_is_least_at_the_optimum_of_its_paper(name):
    case = CASES[name]
    optimum, found = case.optimum(WORLD), minimized(case.least or case.loss, WORLD, **case.world)
    kl = (optimum.exp() * (optimum - found)).sum(-1)
    assert kl.max() < 1e-6  # nats


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.optimum])
def test_gains_most_of_the_possible_reward(name):
    """Where no optimum is known: the expected reward at the minimum, against the best possible at the same KL."""
    case, exact = CASES[name], ClosedForm(WORLD.rewards, WORLD.reference, None)
    found = exact.report(minimized(case.least or case.loss, WORLD, **case.world))
    gain, possible = (found[key] - found["reference_reward"] for key in ("reward", "frontier_reward"))
    assert found["kl_reference"] > 0.01
    assert case.frontier <= gain / possible <= 1


def test_dpo_is_misled_by_flipped_labels_and_robust_is_not():
    """A fraction of wrong labels makes DPO's optimum less certain; the optimum of the robust loss stays."""
    expected = gibbs(WORLD, BETA)
    for name, most, least in (("dpo", 1.0, 0.01), ("robust", 1e-6, 0.0)):
        found = minimized(CASES[name].loss, WORLD, flipped=0.1)
        assert least <= (expected.exp() * (expected - found)).sum(-1).mean() < most
