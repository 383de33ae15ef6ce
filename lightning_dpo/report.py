"""`python -m lightning_dpo.report FOLDER`: a run, or the runs of a sweep or of any folder, as tables and plots."""

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lightning_dpo.cli.changed_settings import Changed, changed_settings
from lightning_dpo.errors import UserError
from lightning_dpo.printable import escape_unencodable
from lightning_dpo.reports.pages import page
from lightning_dpo.reports.runs import Run, read_run, read_runs
from lightning_dpo.reports.samples import full_color, samples_beside, samples_of
from lightning_dpo.reports.summary import summarize, title_of
from lightning_dpo.reports.sweep_plots import draw_frontier, draw_run_curves
from lightning_dpo.reports.tables import plain, runs_table, seeds_table, write_csv
from lightning_dpo.run_folder import RunFolder, started_runs, sweep_config, write_atomically
from lightning_dpo.runs.settings_files import as_dict, loaded, search_path
from lightning_dpo.runs.state import RunState, final_metrics

_MULTIRUN = "hydra.mode=MULTIRUN"
_PICTURES = {
    "frontier.png": (
        draw_frontier,
        "Reward or accuracy against the KL from the reference. Intervals that are wider than the plot are left out.",
    ),
    "curves.png": (draw_run_curves, "Validation metrics of all runs by optimizer step."),
}
_OF_RUNS = (
    "★ marks the largest expected reward or, where it is unknown, the largest accuracy. "
    "± is half the width of a 95 % interval within one run: for accuracies over the validation pairs (Wilson), for KL "
    "and lengths over the sampled answers."
)
_OF_SEEDS = "± is half the width of Student's 95 % interval of the mean over seeds."
_PROMPTS = 8  # whose answers are shown


def report(folder: Path) -> list[Path]:
    """Write the report of a run, or of the runs in the subfolders of `folder`.

    Args:
        folder: Folder of a finished run, of a sweep, or of several runs.

    Returns:
        The written files: `report.html`; for several runs, also `report.md`, `sweep.csv` and plots.

    Raises:
        UserError: The folder has no runs, or the run is not finished.
    """
    if RunFolder(folder).config.exists():
        return [report_of_run(folder)]
    if not started_runs(folder):
        raise UserError(
            f"{folder} has no subfolders with runs: use the folder of a run, of a sweep, or outputs/RUN_NAME"
        )
    # Jobs of a sweep may end at the same time and write the report together.
    with FileLock(folder / ".report.lock"):
        runs = read_runs(folder)
        write_csv(runs, folder / "sweep.csv")
        drawn = {name: text for name, (draw, text) in _PICTURES.items() if draw(runs, folder / name)}
        facts = _facts(folder, runs)
        write_atomically(folder / "report.md", _markdown(facts, drawn))
        pictures = {folder / name: text for name, text in drawn.items()}
        write_atomically(folder / "report.html", page("report.html", facts, pictures))
    return [folder / name for name in ("report.md", "report.html", "sweep.csv", *drawn)]


def report_of_run(folder: Path) -> Path:
    """Write `report.html` of a finished run.

    Raises:
        UserError: It is not finished.
    """
    run, files = read_run(folder), RunFolder(folder)
    if not run.finished:
        reason = f" ({run.error})" if run.error else ""
        raise UserError(f"{folder}: the run is {run.state.value}{reason}; a report needs a finished run")
    summary = summarize(run)
    samples = samples_of(run)
    facts = {
        "title": title_of(folder),
        "wandb": _wandb(run),
        "changed": _changed(run),
        "given": run.settings.items(),
        "samples": samples,
        "full": full_color(samples),
        **vars(summary),
    }
    pictures = {files.curves: "Curves by optimizer step."} if files.curves.exists() else {}
    write_atomically(files.report, page("run.html", facts, pictures))
    return files.report


def _changed(run: Run) -> list[Changed]:
    """The settings that differ from the defaults; empty if the configs of the run are not on this machine."""
    try:
        return changed_settings(run.folder)
    except (HydraException, OSError, OmegaConfBaseException, YAMLError):
        return []


def _wandb(run: Run) -> str:
    """The address of a run in wandb; empty without one."""
    url = str(final_metrics(run.folder).get("wandb", "")) if run.finished else ""
    return url if url.startswith(("https://", "http://")) else ""  # a folder may come from somebody else


def _facts(folder: Path, runs: list[Run]) -> dict[str, Any]:
    counts = Counter(run.state for run in runs)
    seeds = seeds_table(runs)
    states = ", ".join(f"{counts[state]} {state}" for state in RunState if counts[state])
    return {
        "title": title_of(folder),
        "summary": f"{len(runs)} run{'s' if len(runs) != 1 else ''}: {states}.",
        "command": _command(folder),
        "about": _about(runs),
        "wandb": {run.folder.name: _wandb(run) for run in runs},
        "links": {run.folder.name: f"{quote(run.folder.name)}/" for run in runs},
        "samples": samples_beside(runs, _PROMPTS),
        "tables": [
            *([("Over seeds", seeds, _OF_SEEDS)] if seeds else []),
            ("Runs", runs_table(runs), _OF_RUNS),
        ],
        "failures": [(run.folder.name, run.error) for run in runs if run.error],
    }


def _command(folder: Path) -> str:
    """The command of the sweep according to Hydra; empty for any other folder."""
    file = sweep_config(folder)
    if not file.exists():
        return ""
    hydra = loaded(file).hydra
    overrides = as_dict(hydra.overrides)
    others = [override for override in overrides["hydra"] if not override.startswith("hydra.searchpath=")]
    # Hydra records this for -m. A file of sweeps/ sets it itself.
    flags = ["-m"] if _MULTIRUN in others and not any(one.startswith("sweep=") for one in overrides["task"]) else []
    others = [override for override in others if override != _MULTIRUN]
    return shlex.join(["lightning-dpo", "train", *flags, *search_path(hydra), *others, *overrides["task"]])


def _about(runs: list[Run]) -> list[tuple[str, str]]:
    """What finished runs have in common: the model and the number of pairs, if they are equal."""
    found = [final_metrics(run.folder) for run in runs if run.finished]
    named = {"model": [one.get("architecture", "") for one in found], "pairs": [_counts(one) for one in found]}
    return [(name, values[0]) for name, values in named.items() if len(set(values)) == 1 and values[0]]


def _counts(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in metrics.get("data", {}).items() if count)


def _markdown(facts: dict[str, Any], drawn: dict[str, str]) -> str:
    parts = [f"# {facts['title']}", facts["summary"]]
    if facts["command"]:
        parts.append(f"    {facts['command']}")
    if facts["about"]:
        parts.append("\n".join(f"- {name}: {plain(value)}" for name, value in facts["about"]))
    for heading, table, note in facts["tables"]:
        parts += [f"## {heading}", table.markdown().rstrip(), note]
    parts += [f"![{text}]({name})" for name, text in drawn.items()]
    if facts["failures"]:
        lines = (f"- `{name}`: {plain(error)}" for name, error in facts["failures"])
        parts += ["## Failed runs", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser(
        prog="lightning-dpo report",
        description="Writes report.html of a finished run, or compares the runs of a sweep or of any folder: tables, "
        "sweep.csv and plots. A sweep writes its report itself after every job.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="folder of a run or of a sweep, such as outputs/NAME/TIME, or a folder with runs",
    )
    arguments = parser.parse_args()
    escape_unencodable()
    try:
        print("\n".join(map(str, report(arguments.folder))))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
