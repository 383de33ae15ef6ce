"""docs/derivation.md: its script on two short runs, and its numbers against plain sums over reviews."""

import json
from pathlib import Path

import pytest
import torch

from docs.derivation import numbers
from docs.derivation.generate import generate
from docs.derivation.runs import ReviewsRun
from lightning_dpo.cli.config import ROOT
from lightning_dpo.reviews import world
from lightning_dpo.train import train
from tests.support.compose import composed

SHORT = [
    "model.teaching_steps=60", "data.rows.pairs=512", "data.rows.val_pairs=64", "trainer.max_epochs=2", "logger=csv",
    "trainer.accelerator=cpu", "callbacks.samples=null",
]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[str, ReviewsRun]:
    """The page of two short runs, and the run of DPO."""
    folder = tmp_path_factory.mktemp("derivation")
    for loss in ("dpo", "two_way"):
        train(composed(folder / loss, *SHORT, f"loss={loss}"))
    generate(folder / "two_way", [folder / "dpo"], folder / "derivation.md")
    for picture in ("level", "gradient_weights", "frontier"):
        assert (folder / "derivation" / f"{picture}.png").stat().st_size > 10_000
    return (folder / "derivation.md").read_text(), ReviewsRun(folder / "dpo")


def test_the_steps_do_not_change_the_objective(page):
    _, run = page
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(run.reference.shape, generator=generator, dtype=torch.float64)
    for policy in (run.reference, run.policy, run.known.optimum, noise.log_softmax(-1)):
        reward, kl, *objectives = numbers.forms(run, policy)
        assert objectives == pytest.approx([reward - run.beta * kl] * 4, rel=1e-9)
        assert objectives[0] <= numbers.forms(run, run.known.optimum)[2] + 1e-12


def test_z_is_the_sum_over_all_reviews(page):
    text, run = page
    for film, name in enumerate(world.FILMS):
        z = sum(
            float(run.reference[film, review].exp() * (world.rewards()[film, review] / run.beta).exp())
            for review in range(216)
        )
        assert f"| {name} | {z:.3f} |" in text


def test_the_reward_of_the_optimum_differs_from_the_true_one_by_beta_log_z(page):
    _, run = page
    difference = world.rewards() - run.beta * (run.known.optimum - run.reference)
    torch.testing.assert_close(difference, (run.beta * numbers.log_z(run))[:, None].expand_as(difference))


def test_margins_are_those_that_training_logged(page):
    """The accuracy of the last epoch's pairs is near that of the final policy on the same pairs."""
    _, run = page
    assert len(run.margins) == 512
    logged = json.loads((run.folder / "metrics.json").read_text())["train/rewards/accuracies"]
    assert (run.margins > 0).double().mean().item() == pytest.approx(logged, abs=0.1)


def test_the_committed_page_has_the_text_of_the_template():
    committed = (ROOT / "docs" / "derivation.md").read_text()
    template = Path(ROOT, "docs", "derivation", "page.md").read_text()
    assert "$" not in committed
    for line in template.splitlines():
        if "$" not in line:
            assert line in committed, line
