"""The tables of a sweep's report: its runs, and means over seeds with their intervals."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from lightning_dpo.run_state import RunState
from lightning_dpo.sweep_runs import SEED, SHARE, Run, by_all_but_the_seed, differing

SHOWN = {
    "val/rewards/accuracies": "accuracy",
    "val/rewards/margins": "reward margin",
    "val/loss": "validation loss",
    "val/kl": "KL on samples, nats",
    "val/samples/length": "tokens of samples",
    "closed_form/reward": "expected reward",
    "closed_form/kl_reference": "exact KL, nats",
    "closed_form/kl_optimum": "KL to the optimum, nats",
    SHARE: "share of the frontier's reward",
}
"""Metrics that a report shows, and what it calls them."""


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As a Markdown table; what is in a cell is no markup."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "".join(f"| {' | '.join(map(plain, line))} |\n" for line in lines)


def runs_table(runs: Sequence[Run]) -> Table:
    """Every run: the settings that differ, its final metrics with what is known of their error, its time, its state."""
    names, metrics = differing(runs), _known(runs)
    columns = ["run", *names, *(SHOWN[name] for name in metrics), "minutes", "state"]
    rows = [
        [
            run.folder.name,
            *(run.setting(name) for name in names),
            *(_with_error(run.metrics.get(name, math.nan), run.error_of(name)) for name in metrics),
            f"{run.metrics['seconds'] / 60:.1f}" if "seconds" in run.metrics else "",
            run.state.value,
        ]
        for run in runs
    ]
    return Table(columns, rows)


def seeds_table(runs: Sequence[Run]) -> Table | None:
    """Means over runs that differ in their seed alone, with 95 % intervals; None where there are no two."""
    names, metrics = differing(runs), _known(runs)
    groups = by_all_but_the_seed(runs)
    if not any(len(group) > 1 for group in groups):
        return None
    others = [name for name in names if name != SEED]
    rows = []
    for group in groups:
        found = [interval([run.metrics[name] for run in group if name in run.metrics]) for name in metrics]
        settings = [group[0].setting(name) for name in others]
        rows.append([*settings, str(len(group)), *(_with_error(*pair) for pair in found)])
    columns = [*others, "seeds", *(SHOWN[name] for name in metrics)]
    return Table(columns, rows)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of Student's 95 % interval around it; NaN for what cannot be known.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 3)
    (2.0, 2.484)
    """
    if not values:
        return math.nan, math.nan
    if len(values) == 1:
        return values[0], math.nan
    return mean(values), float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """One line for every run: folder, state, settings that differ, all its metrics, and why it failed."""
    names = differing(runs)
    metrics = sorted({name for run in runs for name in run.metrics})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "state", *names, *metrics, "error"])
        for run in runs:
            settings = [run.setting(name) for name in names]
            values = [run.metrics.get(name, "") for name in metrics]
            writer.writerow([run.folder.name, run.state.value, *settings, *values, run.error])


def _known(runs: Sequence[Run]) -> list[str]:
    finished = [run for run in runs if run.state is RunState.FINISHED]
    return [name for name in SHOWN if any(name in run.metrics for run in finished)]


def _with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.3f}"


def plain(text: str) -> str:
    """`text` as it is in Markdown: no markup, no link, no image."""
    return re.sub(r"([\\|\[\]`*_])", r"\\\1", text.replace("<", "&lt;").replace("\n", " "))
