import math

import pytest
from matplotlib.figure import Figure

from lightning_dpo.reports.runs import read_runs
from lightning_dpo.reports.sweep_plots import draw_frontier, draw_run_curves, points
from tests.support.fake_runs import fake_run


@pytest.fixture
def figures(monkeypatch):
    """What is drawn, as matplotlib holds it."""
    drawn, whole = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), whole(self, *a, **k)))
    return drawn


def labels(figure) -> list[tuple[str, str]]:
    return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]


def test_where_the_optimum_is_known_reward_against_kl_beside_the_frontier(tmp_path, figures):
    frontier = [(9.0, 0.0, -0.2), (1.0, 1.0, 0.8), (0.1, 4.0, 1.9), (0.01, 40.0, 2.0)]
    for number, (kl, reward) in enumerate([(1.0, 0.7), (4.0, 1.8)]):
        metrics = {"closed_form/kl_reference": kl, "closed_form/reward": reward, "val/kl": 3.0}
        fake_run(tmp_path, str(number), [f"loss.beta={number + 1}"], metrics, frontier=frontier)
    assert draw_frontier(read_runs(tmp_path), tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    assert labels(figures[0]) == [(r"exact KL(π‖$\pi_\mathrm{ref}$), nats", "expected reward")]
    limit = axes.lines[0]
    assert limit.get_label() == "best possible at this KL"
    assert limit.get_xydata().tolist() == [[0.0, -0.2], [1.0, 0.8], [4.0, 1.9]]  # no further than the runs
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["best possible at this KL", "reference", "β 1", "β 2"]


def test_on_real_data_accuracy_and_length_against_kl_with_errors(tmp_path, figures):
    for number in range(3):
        metrics = {
            "val/kl": number + 1.0, "val/kl_stderr": 0.1, "val/rewards/accuracies": 0.6, "val/samples/length": 20.0,
            "val/samples/length_stderr": 2.0,
        }  # fmt: skip
        fake_run(tmp_path, str(number), [f"loss.beta={number}"], metrics)
    runs = read_runs(tmp_path)
    assert draw_frontier(runs, tmp_path / "frontier.png")
    ylabels = [ylabel for _, ylabel in labels(figures[0])]
    assert ylabels == ["accuracy", "tokens of samples"]
    first = points(runs, "val/kl", "val/samples/length")[0]
    assert (first.x, first.y, first.x_error, first.y_error) == pytest.approx((1.0, 20.0, 0.196, 3.92))
    assert first.label == "β 0"


def test_several_seeds_are_one_point_with_students_interval(tmp_path):
    for seed, kl in enumerate((1.0, 2.0, 3.0)):
        fake_run(tmp_path, str(seed), [f"seed={seed}"], {"val/kl": kl, "val/rewards/accuracies": 0.6})
    (point,) = points(read_runs(tmp_path), "val/kl", "val/rewards/accuracies")
    assert (point.x, point.y, point.label) == (2.0, pytest.approx(0.6), "mean (3 seeds)")
    assert point.seeds == [(1.0, 0.6), (2.0, 0.6), (3.0, 0.6)]
    assert point.x_error == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)


def test_without_kl_or_curves_there_is_nothing_to_draw(tmp_path):
    fake_run(tmp_path, "0", [], {"val/loss": 0.5})
    assert not draw_frontier(read_runs(tmp_path), tmp_path / "frontier.png")
    assert not draw_run_curves(read_runs(tmp_path), tmp_path / "curves.png")
    assert not list(tmp_path.glob("*.png"))


def test_curves_of_all_runs_can_be_distinguished_without_colour(tmp_path, figures):
    for number in range(5):
        rows = [{"step": step, "val/rewards/accuracies": 0.5 + 0.1 * step, "val/kl": number} for step in (1, 2)]
        fake_run(tmp_path, str(number), [f"loss.beta={number}"], {"val/loss": 0.5}, history=rows)
    assert draw_run_curves(read_runs(tmp_path), tmp_path / "curves.png")
    assert labels(figures[0])[0] == ("optimizer step", "accuracy")
    lines = figures[0].axes[0].lines
    assert lines[1].get_xydata().tolist() == [[1.0, 0.6], [2.0, 0.7]]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 5
    assert len({line.get_color() for line in lines}) == 5


def test_seeds_are_one_curve_with_the_range_of_their_values(tmp_path, figures):
    for seed, last in enumerate((0.6, 0.8)):
        rows = [{"step": 1, "val/rewards/accuracies": 0.5}, {"step": 2, "val/rewards/accuracies": last}]
        fake_run(tmp_path, f"{seed}", [f"seed={seed}"], {"val/loss": 0.5}, history=rows)
    assert draw_run_curves(read_runs(tmp_path), tmp_path / "curves.png")
    (axes,) = figures[0].axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[1.0, 0.5], [2.0, pytest.approx(0.7)]]
    assert line.get_label() == "mean (2 seeds)"
    assert axes.collections[0].get_datalim(axes.transData).intervaly.tolist() == [0.5, 0.8]


def test_a_metric_with_one_value_has_no_panel(tmp_path, figures):
    rows = [{"step": step, "val/kl": step} for step in (1, 2)]
    fake_run(tmp_path, "0", [], {"val/loss": 0.5}, history=[*rows, {"step": 2, "val/rewards/accuracies": 0.6}])
    assert draw_run_curves(read_runs(tmp_path), tmp_path / "curves.png")
    assert [ylabel for _, ylabel in labels(figures[0])] == [r"KL(π‖$\pi_\mathrm{ref}$) on samples, nats"]


def test_a_wide_interval_does_not_set_the_axes(tmp_path, figures):
    for number, error in enumerate((0.01, 0.01, 50.0)):
        metrics = {"val/kl": 1.0 + number, "val/kl_stderr": error, "val/rewards/accuracies": 0.6}
        fake_run(tmp_path, str(number), [f"loss.beta={number}"], metrics)
    assert draw_frontier(read_runs(tmp_path), tmp_path / "frontier.png")
    low, high = figures[0].axes[0].get_xlim()
    assert 0.5 < low < 1.0
    assert 3.0 < high < 3.5
