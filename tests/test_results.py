import csv

import pytest

from lightning_dpo import results
from tests.compose import composed


def write(path, rows: list[dict]) -> None:
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("rows", "panels"),
    [
        ([{"step": 0, "train/loss": 0.7}, {"step": 1, "val/loss": 0.6}], 1),
        ([{"step": 0, "train/loss": 0.7, "train/rewards/accuracies": 0.5, "val/rewards/chosen": 0.1}], 3),
    ],
)
def test_curves_have_a_panel_for_what_was_measured(tmp_path, monkeypatch, rows, panels):
    drawn = []
    monkeypatch.setattr(results.Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    write(tmp_path / "metrics.csv", rows)
    results.draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    axes = drawn[0].axes
    assert len(axes) == panels
    assert [line.get_ydata().tolist() for line in axes[0].lines] == [[0.7]] + ([[0.6]] if panels == 1 else [])


def test_a_model_card_says_what_was_done(tmp_path):
    config = composed(tmp_path, "model=llama", "data=hh", "loss.beta=0.3")
    card = results.model_card(config, {"val/loss": 0.5, "train/loss": 9.0}, {"train": 10, "val": 2})
    assert "Trained from meta-llama/Llama-3.2-1B" in card
    assert "- train: 10" in card
    assert "| val/loss | 0.5000 |" in card
    assert "train/loss" not in card
    assert "beta: 0.3" in card
