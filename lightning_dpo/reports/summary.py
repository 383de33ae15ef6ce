"""The summary of a finished run: its results with intervals, its warnings, and commands that continue from it."""

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table as ConsoleTable

from lightning_dpo.checkpoints.reading import opened
from lightning_dpo.errors import UserError
from lightning_dpo.printable import printable
from lightning_dpo.reports.intervals import Z, wilson
from lightning_dpo.reports.runs import SEED, Run, read_run
from lightning_dpo.reports.tables import Table, plain
from lightning_dpo.run_folder import RunFolder, write_atomically
from lightning_dpo.runs.history import validation_after
from lightning_dpo.runs.settings_files import loaded
from lightning_dpo.runs.state import final_metrics

_ACCURACY = "val/rewards/accuracies"
_NAME, _SEARCH_PATH = "model.name", "hydra.searchpath"
# Groups of `evaluate` whose settings it does not find in an export, and in a checkpoint.
_OF_EXPORT = ("model", "data")
_OF_CHECKPOINT = (*_OF_EXPORT, "adapter", "loss")


@dataclass(frozen=True)
class Summary:
    """What a run ends with.

    Attributes:
        command: The command that started the run; empty for a run in a notebook.
        results: Names and values.
        warnings: Each warning that was logged, with the number of times if there are several.
        commands: What each does, and the command.
    """

    command: str
    results: list[tuple[str, str]]
    warnings: list[str]
    commands: list[tuple[str, str]]

    def markdown(self, title: str) -> str:
        """The content of `summary.md`."""
        parts = [
            f"# {title}",
            *([f"    {self.command}"] if self.command else []),
            Table(["result", "value"], [list(row) for row in self.results]).markdown().rstrip(),
        ]
        if self.warnings:
            parts += ["## Warnings", "\n".join(f"- {plain(warning)}" for warning in self.warnings)]
        parts += ["## Next", *(f"{purpose}:\n\n    {command}" for purpose, command in self.commands)]
        return "\n\n".join(parts) + "\n"

    def table(self) -> ConsoleTable:
        """The results for the console."""
        table = ConsoleTable(title="Results", title_justify="left", show_header=False)
        for name, value in self.results:
            table.add_row(printable(name), printable(value))
        return table


def conclude(folder: str) -> None:
    """Write `summary.md` of the finished run in `folder`, and print its results."""
    path = RunFolder(folder)
    summary = summarize(read_run(path.path))
    write_atomically(path.summary, summary.markdown(title_of(path.path)))
    console = Console()
    console.print(summary.table())
    for purpose, command in summary.commands:
        # A line that can be copied, without the line breaks of rich.
        print(printable(f"{purpose}: {command}"))


def title_of(folder: Path) -> str:
    """Name and time of the run or sweep in a folder; for a job, those of its sweep and its own name."""
    absolute = folder.resolve()
    names = [absolute.parent.name, absolute.name]
    return " ".join([absolute.parents[1].name, *names] if RunFolder(absolute).sweep else names)


def summarize(run: Run) -> Summary:
    """The summary of a finished run, from its files."""
    counted = Counter(final_metrics(run.folder).get("warnings", ()))
    warnings = [f"{text} ({count} times)" if count > 1 else text for text, count in counted.items()]
    overrides = [override for _, override in _overrides(run.folder)]
    command = _shell("train", *overrides) if RunFolder(run.folder).command.exists() else ""
    return Summary(command, list(_results(run)), warnings, list(_commands(run)))


def _results(run: Run) -> Iterator[tuple[str, str]]:
    found = run.metrics
    if _ACCURACY in found:
        low, high = wilson(found[_ACCURACY], run.pairs) if run.pairs else (math.nan, math.nan)
        interval = f", 95 % interval {low:.3f} to {high:.3f}" if run.pairs else ""
        yield "accuracy", f"{found[_ACCURACY]:.3f}{interval}, on {run.pairs} validation pairs"
    if "val/rewards/margins" in found:
        yield "reward margin", f"{found['val/rewards/margins']:.3f}"
    if "val/loss" in found:
        yield "validation loss", f"{found['val/loss']:.4f}"
    if "val/kl" in found:
        yield "KL(π‖π_ref) on sampled answers", f"{found['val/kl']:.3g}{_half(run, 'val/kl')} nats per answer"
    if "val/samples/length" in found:
        yield "length of sampled answers", _length(run)
    if best := _best(run):
        yield "best checkpoint", best
    # Absent in the folder of an earlier version.
    if {"steps", "seconds"} <= found.keys():
        minutes, seconds = divmod(round(found["seconds"]), 60)
        duration = f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
        yield "training", f"{found['steps']:.0f} steps in {duration}"


def _half(run: Run, name: str) -> str:
    """Half the width of the 95 % interval, if it is known."""
    return f" ± {Z * found:.2g}" if math.isfinite(found := run.metrics.get(f"{name}_stderr", math.nan)) else ""


def _length(run: Run) -> str:
    length = run.metrics["val/samples/length"]
    reference = run.metrics.get("val/samples/reference/length")
    if not reference:
        return f"{length:.1f} tokens"
    return f"{length:.1f} tokens, {length / reference - 1:+.0%} of the reference's {reference:.1f}"


def _best(run: Run) -> str:
    """Step of `best.ckpt`, and its accuracy at that step."""
    path = RunFolder(run.folder).checkpoint("best")
    if not path.exists():
        return ""
    try:
        step = opened(path, verify=False)["global_step"]
    except UserError:  # damaged since
        return ""
    known = validation_after(step, run.history).get(_ACCURACY)
    accuracy = f", accuracy {float(known):.3f}" if known else ""
    total = f" of {run.metrics['steps']:.0f}" if "steps" in run.metrics else ""
    return f"step {step}{total}{accuracy}"


def _commands(run: Run) -> Iterator[tuple[str, str]]:
    folder, choices, overrides = RunFolder(run.folder), _choices(run.folder), _overrides(run.folder)
    # The settings of an experiment's file are not overrides that could be repeated.
    if choices and "experiment" not in dict(overrides):
        yield "Evaluate the result", _shell("evaluate", *_evaluated(run, choices, overrides))
    if folder.sweep is None and "loss.beta" in run.config:
        left_out = ("loss.beta", "ckpt_path", "sweep")
        kept = [override for key, override in overrides if key not in left_out and _is_of_run(key)]
        yield "Compare values of β", _shell("train", *kept, "sweep=beta")
    if folder.checkpoint("best").exists():
        yield "Export the best checkpoint; export/ has the last step", _shell("export", str(folder.path))
        yield "Sample answers to your prompts", _shell("sample", str(folder.path))
    yield "Write a page with the results, samples and settings", _shell("report", str(folder.path))


def _evaluated(run: Run, choices: Mapping[str, str], overrides: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Arguments with which `evaluate` evaluates the run's validation pairs.

    An export contains its loss and its adapter. A model that was created in code is evaluated from its checkpoint, and
    then all settings of its training are repeated.
    """
    in_code = not run.config.get(_NAME) or run.config.get("model.pretrained") is False
    groups = _OF_CHECKPOINT if in_code else _OF_EXPORT
    yield from (f"{group}={choices[group]}" for group in groups)
    for key, override in overrides:
        of_group = key.partition("/")[0].partition(".")[0] in groups
        # The seed determines the split and the weights of a new model.
        if key in (SEED, _SEARCH_PATH) or (of_group and key not in groups and (in_code or key != _NAME)):
            yield override
    folder = RunFolder(run.folder)
    yield f"ckpt_path={folder.last}" if in_code else f"{_NAME}={folder.path / 'export'}"


def _is_of_run(key: str) -> bool:
    """Whether an override applies to another run too. Most settings of Hydra, such as `hydra.run.dir`, do not."""
    return key == _SEARCH_PATH or not key.startswith("hydra")


def _overrides(folder: Path) -> list[tuple[str, str]]:
    """Keys and texts of the overrides with which the run was started."""
    file = RunFolder(folder).command
    overrides = shlex.split(file.read_text(encoding="utf-8"))[3:] if file.exists() else []
    return [(override.lstrip("+~").partition("=")[0], override) for override in overrides]


def _choices(folder: Path) -> dict[str, str]:
    """The options of the groups, according to Hydra; empty for a run in a notebook."""
    file = folder / ".hydra" / "hydra.yaml"
    found = OmegaConf.select(loaded(file), "hydra.runtime.choices") if file.exists() else None
    return {str(group): str(option) for group, option in (found or DictConfig({})).items()}


def _shell(*arguments: str) -> str:
    return shlex.join(["lightning-dpo", *arguments])
