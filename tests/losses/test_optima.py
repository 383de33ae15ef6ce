"""Every loss, minimized on all pairs of a world that can be enumerated: the optimum of its paper, or its frontier."""

import pytest
import torch

from lightning_dpo.reviews.closed_form import ClosedForm
from tests.support.losses import BETA, CASES
from tests.support.optima import gibbs, mean_loss, minimized, small_world

WORLD = small_world()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.optimum and name != "hinge"])
def test_is_least_at_the_optimum_of_its_paper(name):
    case = CASES[name]
    optimum, found = case.optimum(WORLD), minimized(case.least or case.loss, WORLD, **case.world)
    kl = (optimum.exp() * (optimum - found)).sum(-1)
    assert kl.max() < 1e-6  # nats


def test_hinge_is_least_at_whole_multiples_of_its_margin():
    """It is not smooth, so L-BFGS stops before the minimum. It is convex, so a local minimum is the global one."""
    case, value_at = CASES["hinge"], mean_loss(CASES["hinge"].loss, WORLD)
    optimum = case.optimum(WORLD)
    least = value_at(optimum)
    assert least < value_at(minimized(case.loss, WORLD)) < value_at(WORLD.reference)
    generator = torch.Generator().manual_seed(0)
    for step in torch.randn(500, 2, 6, generator=generator, dtype=torch.float64):
        assert value_at(optimum + 1e-3 * step) >= least - 1e-12
    found = ClosedForm(WORLD.rewards, WORLD.reference, None).report(optimum)
    gain, possible = (found[key] - found["reference_reward"] for key in ("reward", "frontier_reward"))
    assert case.frontier <= gain / possible <= 1


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
