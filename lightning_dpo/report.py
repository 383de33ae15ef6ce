"""`python -m lightning_dpo.report FOLDER`: the runs of a sweep or of any folder as tables and plots."""

import argparse
import base64
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from filelock import FileLock
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lightning_dpo.errors import UserError
from lightning_dpo.reports.runs import Run, read_runs
from lightning_dpo.reports.sweep_plots import draw_frontier, draw_run_curves
from lightning_dpo.reports.tables import plain, runs_table, seeds_table, write_csv
from lightning_dpo.run_folder import RunFolder, started_runs, sweep_config, write_atomically
from lightning_dpo.runs.settings_files import as_dict, loaded, search_path
from lightning_dpo.runs.state import RunState

_PICTURES = {
    "frontier.png": (draw_frontier, "Reward or accuracy against the KL from the reference."),
    "curves.png": (draw_run_curves, "Validation metrics of all runs by optimizer step."),
}
_OF_RUNS = (
    "± is half the width of a 95 % interval within one run: for accuracies over the validation pairs (Wilson), for KL "
    "and lengths over the sampled answers."
)
_OF_SEEDS = "± is half the width of Student's 95 % interval of the mean over seeds."


def report(folder: Path) -> list[Path]:
    """Write `report.md`, `report.html`, `sweep.csv` and plots of the runs in the subfolders of `folder`.

    Args:
        folder: Folder of a sweep, or of several runs.

    Returns:
        The written files.

    Raises:
        UserError: There are no runs.
    """
    if RunFolder(folder).config.exists():
        raise UserError(f"{folder} is the folder of one run: use the folder of its sweep, or outputs/RUN_NAME")
    if not started_runs(folder):
        raise UserError(f"{folder} has no subfolders with runs: use the folder of a sweep, or outputs/RUN_NAME")
    # Jobs of a sweep may end at the same time and write the report together.
    with FileLock(folder / ".report.lock"):
        runs = read_runs(folder)
        write_csv(runs, folder / "sweep.csv")
        drawn = {name: text for name, (draw, text) in _PICTURES.items() if draw(runs, folder / name)}
        facts = _facts(folder, runs)
        write_atomically(folder / "report.md", _markdown(facts, drawn))
        write_atomically(folder / "report.html", _html(facts, drawn, folder))
    return [folder / name for name in ("report.md", "report.html", "sweep.csv", *drawn)]


def _facts(folder: Path, runs: list[Run]) -> dict[str, Any]:
    counts = Counter(run.state for run in runs)
    seeds = seeds_table(runs)
    absolute = folder.resolve()
    return {
        "title": f"{absolute.parent.name} {absolute.name}",
        "summary": f"{len(runs)} runs: {', '.join(f'{counts[state]} {state}' for state in RunState if counts[state])}.",
        "command": _command(folder),
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
    arguments = [*search_path(hydra), *others, *overrides["task"]]
    return shlex.join(["python", "-m", "lightning_dpo.train", *arguments])


def _markdown(facts: dict[str, Any], drawn: dict[str, str]) -> str:
    parts = [f"# {facts['title']}", facts["summary"]]
    if facts["command"]:
        parts.append(f"    {facts['command']}")
    for heading, table, note in facts["tables"]:
        parts += [f"## {heading}", table.markdown().rstrip(), note]
    parts += [f"![{text}]({name})" for name, text in drawn.items()]
    if facts["failures"]:
        lines = (f"- `{name}`: {plain(error)}" for name, error in facts["failures"])
        parts += ["## Failed runs", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _html(facts: dict[str, Any], drawn: dict[str, str], folder: Path) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("reports")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    pictures = [(base64.b64encode((folder / name).read_bytes()).decode(), text) for name, text in drawn.items()]
    return templates.get_template("report.html").render(facts, pictures=pictures)


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_dpo.report",
        description="Compares the runs of a sweep, or of any folder: tables, sweep.csv and plots. A sweep writes "
        "its report itself after every job.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="folder of a sweep, such as outputs/NAME/TIME, or a folder with runs",
    )
    arguments = parser.parse_args()
    try:
        print("\n".join(map(str, report(arguments.folder))))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
