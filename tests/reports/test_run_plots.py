import csv

import pytest
from matplotlib.figure import Figure

from lightning_dpo.reports.run_plots import draw_curves, draw_lengths


def write(path, rows: list[dict]) -> None:
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("rows", "panels"),
    [
        ([{"step": 0, "train/loss": 0.7}, {"step": 1, "train/loss": 0.5, "val/loss": 0.6}], 1),
        ([{"step": step, "train/loss": 0.7, "train/rewards/accuracies": 0.5} for step in (0, 1)], 2),
        # A panel with a single point is left out.
        ([{"step": 0, "train/loss": 0.7, "val/kl": 0.5}, {"step": 1, "train/loss": 0.5}], 1),
    ],
)
def test_curves_have_a_panel_for_what_was_measured(tmp_path, monkeypatch, rows, panels):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    write(tmp_path / "metrics.csv", rows)
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    axes = drawn[0].axes
    assert len(axes) == panels
    drawn_values = [container.lines[0].get_ydata().tolist() for container in axes[0].containers]
    assert drawn_values == [
        [row[name] for row in rows if name in row]
        for name in ("train/loss", "val/loss")
        if any(name in r for r in rows)
    ]


def test_the_kl_has_error_bars_of_its_standard_error(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    write(tmp_path / "metrics.csv", [{"step": step, "val/kl": step, "val/kl_stderr": 0.5} for step in (1, 2)])
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    ((_, _, (bars,)),) = drawn[0].axes[0].containers
    heights = [segment[1][1] - segment[0][1] for segment in bars.get_segments()]
    assert heights == pytest.approx([2 * 1.96 * 0.5] * 2)


def test_histograms_are_plotted_of_what_is_given(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    draw_lengths({"prompt": [1, 2, 2], "prompt and longer answer": [5, 9, 5]}, 20, tmp_path / "a.png")
    counts = [sum(bar.get_height() for bar in axes.patches) for axes in drawn[0].axes]
    assert counts == [3, 3]
