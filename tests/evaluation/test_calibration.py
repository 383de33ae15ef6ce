import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from lightning_dpo.evaluation.accuracy import ScoredPair
from lightning_dpo.evaluation.calibration import calibration, draw_calibration


def test_the_plot_shows_accuracy_and_pairs_of_every_bin(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    draw_calibration([(0.6, 0.5, 10), (0.9, 1.0, 4)], "subtitle", tmp_path / "b.png")
    above, below = drawn[0].axes
    assert above.containers[0].lines[0].get_ydata().tolist() == [0.5, 1.0]
    assert [bar.get_height() for bar in below.patches] == [10, 4]


def pair(margin: float) -> ScoredPair:
    return ScoredPair("file:1", "", margin, 0.0, 10, 10)


def test_rewards_that_made_the_labels_are_calibrated_and_doubled_ones_are_not():
    generator = np.random.default_rng(1)
    gaps = generator.normal(0, 1.5, 20_000)
    margins = np.where(generator.random(20_000) < 1 / (1 + np.exp(-gaps)), gaps, -gaps)
    good, sure = (calibration([pair(scale * margin) for margin in margins]) for scale in (1, 3))
    assert good.expected_error < 0.01
    assert sure.expected_error > 0.08
    assert good.log_loss < sure.log_loss
    assert sum(count for _, _, count in good.bins) == 20_000


def test_a_model_that_knows_nothing():
    nothing = calibration([pair(0.0)] * 5)
    assert nothing.bins == [(0.5, 0.5, 5)]
    assert (nothing.brier, nothing.log_loss) == pytest.approx((0.25, math.log(2)))
    assert calibration([pair(-1e4), pair(1e4)]).log_loss == pytest.approx(5e3)
