"""Draws length, accuracy and reward of the runs of experiment=length: one line per loss, one point per β.

python experiments/length/plot.py outputs experiments/length/length.png
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_dpo.reports.plots import grid, save_figure

_STYLES = {
    "dpo": ("DPO", "s-"),
    "r_dpo": ("R-DPO, α = bias", "o--"),
    "length_normalized": ("LengthNormalized DPO", "^-."),
    "ld_dpo": ("LD-DPO, α = 0", "v:"),
    "simpo": ("SimPO", "D-"),
}
_LABELS = {
    "words": "expected number of words",
    "accuracy": "accuracy on true rewards",
    "reward": "expected true reward",
}


class Run(NamedTuple):
    """A finished run: its loss, what differs from the others, and exact quantities of its policy."""

    loss: str
    setting: str
    words: float
    reference_words: float
    accuracy: float
    reward: float
    kl: float
    mass: float


def runs_of(outputs: Path) -> list[Run]:
    """The finished runs of all sweeps with `experiment=length` below `outputs`."""
    found = []
    for path in sorted(outputs.glob("length-*/*/sweep.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["state"] != "finished":
                    continue
                names = ("words", "reference_words", "reward_accuracy", "reward", "kl_reference", "mass_on_reviews")
                values = [float(row[f"closed_form/{name}"]) for name in names]
                loss = path.parents[1].name.removeprefix("length-")
                found.append(Run(loss, row["run"].partition("_")[2], *values))
    return found


def draw(runs: Sequence[Run], picture: Path) -> None:
    """Draw expected length, accuracy on true rewards, and expected true reward, each against KL(π‖π_ref)."""
    figure, panels = grid(3, 3, (4.2, 3.6))
    for axes, name in zip(panels, _LABELS, strict=True):
        for loss, (label, style) in _STYLES.items():
            some = sorted((run for run in runs if run.loss == loss), key=lambda run: run.kl)
            values = [getattr(run, name) for run in some]
            axes.plot([run.kl for run in some], values, style, color="black", markersize=5, linewidth=1, label=label)
        axes.set(xlabel="KL(π‖π_ref), nats", ylabel=_LABELS[name])
        axes.grid(alpha=0.3)
    panels[0].axhline(runs[0].reference_words, color="0.5", linewidth=1, label="reference")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="small")
    save_figure(figure, picture, 150)


def table(runs: Sequence[Run]) -> str:
    """The runs as a table in Markdown."""
    columns = "loss|values|words|accuracy on true rewards|true reward|KL(π‖π_ref)|probability of 1 to 4 words"
    rows = [
        [
            f"`{run.loss}`",
            run.setting,
            *(f"{value:.2f}" for value in (run.words, run.accuracy, run.reward, run.kl, run.mass)),
        ]
        for loss in _STYLES
        for run in runs
        if run.loss == loss
    ]
    lines = [columns.split("|"), ["---"] * 7, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Draw length, accuracy and reward of the runs of experiment=length.")
    parser.add_argument("outputs", type=Path, help="the folder outputs/")
    parser.add_argument("picture", type=Path, help="the picture to write")
    arguments = parser.parse_args()
    runs = runs_of(arguments.outputs)
    if not runs:
        parser.error(f"{arguments.outputs} has no finished sweeps of experiment=length")
    draw(runs, arguments.picture)
    print(table(runs))


if __name__ == "__main__":
    main()
