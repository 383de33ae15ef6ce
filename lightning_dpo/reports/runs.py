"""The runs in a folder, read from their files: their settings, differences and results."""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_dpo.labels import FRONTIER_SHARE
from lightning_dpo.reports.intervals import Z, wilson
from lightning_dpo.run_folder import RunFolder, started_runs
from lightning_dpo.runs.history import read_history
from lightning_dpo.runs.settings_files import as_dict, loaded, shown
from lightning_dpo.runs.state import RunState, failure, final_metrics, state_now
from lightning_dpo.settings import compared, flat

SEED = "seed"
_SYMBOLS = {"loss.beta": "β", "optimizer.lr": "learning rate"}


_LEAST_GAIN = 0.05


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: Its folder.
        state: Its progress.
        settings: The overrides of its command line, by key.
        config: All settings that determine its result, by dotted key.
        config_but_seed: The same without the seed and the settings that depend on it.
        metrics: The final metrics, if it is finished.
        pairs: Number of validation pairs.
        error: Why it failed, in one sentence; empty if it did not.
    """

    folder: Path
    state: RunState
    settings: dict[str, str]
    config: dict[str, Any]
    config_but_seed: dict[str, Any]
    metrics: dict[str, float]
    pairs: int
    error: str

    @property
    def finished(self) -> bool:
        """Whether it has all its results."""
        return self.state is RunState.FINISHED

    @cached_property
    def history(self) -> list[dict[str, str]]:
        """The rows of `metrics.csv`."""
        return read_history(RunFolder(self.folder).history)

    def setting(self, name: str) -> str:
        """The value on the command line or, without one, in the config; empty for a group of settings."""
        value = self.settings.get(name, self.config.get(name, ""))
        return "" if value is None else str(value)

    def error_of(self, name: str) -> float:
        """Half the width of a metric's 95 % interval within this run; NaN if unknown.

        For accuracies, Wilson's interval over the validation pairs; for KL and lengths, over the sampled answers.
        """
        if name == "val/rewards/accuracies" and self.pairs and name in self.metrics:
            low, high = wilson(self.metrics[name], self.pairs)
            return (high - low) / 2
        return Z * self.metrics.get(f"{name}_stderr", math.nan)


def read_runs(folder: Path) -> list[Run]:
    """The runs in the subfolders of `folder`, sorted by the number at the start of their names."""
    return [read_run(path) for path in sorted((run.path for run in started_runs(folder)), key=_by_number)]


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which the runs differ."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len({run.setting(name) for run in runs}) > 1]


def by_all_but_the_seed(runs: Sequence[Run]) -> list[list[Run]]:
    """Finished runs, grouped by all settings but the seed. Of several runs with the same seed, the last."""
    return seed_groups([run for run in runs if run.finished])


def seed_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs in any state, grouped by all settings but the seed. Of several runs with the same seed, the last."""
    groups: dict[str, dict[Any, Run]] = {}
    for run in runs:
        groups.setdefault(repr(sorted(run.config_but_seed.items())), {})[run.config.get(SEED)] = run
    return [list(group.values()) for group in groups.values()]


def label(run: Run, names: Sequence[str]) -> str:
    """A short name of the run from its settings.

    >>> label(Run(Path("0"), RunState.NEW, {"loss.beta": "0.1", "seed": "3"}, {}, {}, {}, 0, ""), ["loss.beta", "seed"])
    'β 0.1, seed 3'
    """
    known = (name for name in names if run.setting(name))
    short = (f"{_SYMBOLS.get(name, name.rpartition('.')[2])} {run.setting(name)}" for name in known)
    return ", ".join(short) or run.folder.name


def _by_number(path: Path) -> tuple[int, str]:
    number = re.match(r"\d+(?=_|$)", path.name)
    return (int(number[0]) if number else 0, path.name)


def read_run(folder: Path) -> Run:
    """The run in `folder`."""
    state, config_file, command = state_now(folder), RunFolder(folder).config, RunFolder(folder).command
    overrides = shlex.split(command.read_text(encoding="utf-8"))[3:] if command.exists() else []
    parts = [override.lstrip("+~").partition("=") for override in overrides]
    without = ("hydra", "sweep", "logger")
    settings = compared({key: value for key, _, value in parts if key.partition(".")[0] not in without})
    settings_of_run = loaded(config_file) if config_file.exists() else DictConfig({})
    config = _decided(settings_of_run)
    values = final_metrics(folder) if state is RunState.FINISHED else {}
    metrics = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    pairs = int(metrics.get("val/pairs", 0))
    # Settings that refer to ${seed} then resolve to the same value for all seeds.
    settings_of_run[SEED] = None
    return Run(
        folder, state, settings, config, _decided(settings_of_run), metrics | _share(metrics), pairs, failure(folder)
    )


def _decided(config: DictConfig) -> dict[str, Any]:
    return {name: shown(config, name) for name in flat(compared(as_dict(config)))}


def _share(metrics: dict[str, float]) -> dict[str, float]:
    """The policy's gain in reward over the reference, divided by the largest possible gain at its KL."""
    names = ("closed_form/reward", "closed_form/reference_reward", "closed_form/frontier_reward")
    reward, start, possible = (metrics.get(name, math.nan) for name in names)
    # If the possible gain is close to 0, the share is only noise.
    return {FRONTIER_SHARE: (reward - start) / (possible - start)} if possible - start > _LEAST_GAIN else {}
