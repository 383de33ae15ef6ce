"""The tables of a report: the runs, and means over seeds with their intervals."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_dpo.labels import FRONTIER_SHARE, LABELS
from lightning_dpo.printable import one_line
from lightning_dpo.reports.intervals import interval
from lightning_dpo.reports.runs import SEED, Run, by_all_but_the_seed, differing
from lightning_dpo.run_folder import write_table
from lightning_dpo.runs.state import RunState

SHOWN = (
    "val/rewards/accuracies", "val/rewards/margins", "val/loss", "val/kl", "val/samples/length", "closed_form/reward",
    "closed_form/kl_reference", "closed_form/kl_optimum", FRONTIER_SHARE,
)  # fmt: skip
"""Metrics that a report shows."""


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        columns: Headings.
        rows: Cells.
        marks: What each row is marked as: `failed`, `best` or nothing; empty: no row is marked.
    """

    columns: list[str]
    rows: list[list[str]]
    marks: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The table in Markdown. Markup in cells is escaped."""
        best = [mark == "best" for mark in self.marks] or [False] * len(self.rows)
        rows = ([f"★ {row[0]}", *row[1:]] if is_best else row for row, is_best in zip(self.rows, best, strict=True))
        lines = [self.columns, ["---"] * len(self.columns), *rows]
        return "".join(f"| {' | '.join(map(plain, line))} |\n" for line in lines)


def runs_table(runs: Sequence[Run]) -> Table:
    """A row per run: state, the settings that differ, final metrics with their intervals, and time."""
    names, metrics = differing(runs), _known(runs)
    columns = ["run", "state", *names, *(LABELS[name].heading for name in metrics), "minutes"]
    rows = [
        [
            run.folder.name,
            run.state.value,
            *(run.setting(name) for name in names),
            *(_with_error(run.metrics.get(name, math.nan), run.error_of(name)) for name in metrics),
            f"{run.metrics['seconds'] / 60:.1f}" if "seconds" in run.metrics else "",
        ]
        for run in runs
    ]
    best = best_of(runs)
    failed = (RunState.FAILED, RunState.CRASHED)
    return Table(columns, rows, ["failed" if run.state in failed else "best" if run is best else "" for run in runs])


def best_of(runs: Sequence[Run]) -> Run | None:
    """The finished run with the largest expected reward or, where it is unknown, accuracy; None for a single run."""
    for name in ("closed_form/reward", "val/rewards/accuracies"):
        known = [run for run in runs if run.finished and math.isfinite(run.metrics.get(name, math.nan))]
        if len(known) > 1:
            return max(known, key=lambda run: run.metrics[name])
    return None


def seeds_table(runs: Sequence[Run]) -> Table | None:
    """Means over runs that differ only in their seed, with 95 % intervals; None if there are none."""
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
    columns = [*others, "seeds", *(LABELS[name].heading for name in metrics)]
    return Table(columns, rows)


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """Write a row per run: folder, state, settings that differ, all metrics, and the error."""
    names = differing(runs)
    metrics = sorted({name for run in runs for name in run.metrics})
    rows: list[Sequence[object]] = [["run", "state", *names, *metrics, "error"]]
    for run in runs:
        settings = [run.setting(name) for name in names]
        values = [run.metrics.get(name, "") for name in metrics]
        rows.append([run.folder.name, run.state.value, *settings, *values, run.error])
    write_table(path, rows)


def _known(runs: Sequence[Run]) -> list[str]:
    finished = [run for run in runs if run.state is RunState.FINISHED]
    return [name for name in SHOWN if any(name in run.metrics for run in finished)]


def _with_error(value: float, error: float) -> str:
    """A metric with as many decimals as its error justifies, two digits of it, or with four digits.

    >>> _with_error(180.0, 7.84), _with_error(0.6, 0.048), _with_error(0.6, math.nan), _with_error(0.97, 0.0)
    ('180.0 ± 7.8', '0.600 ± 0.048', '0.6000', '0.9700')
    """
    if math.isnan(value):
        return ""
    if math.isnan(error) or not error:
        size = math.floor(math.log10(abs(value))) if value else 0
        return f"{value:.{max(0, 3 - max(size, -1))}f}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def plain(text: str) -> str:
    """`text` in one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\|\[\]`*_])", r"\\\1", one_line(text).replace("<", "&lt;"))
