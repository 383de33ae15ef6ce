"""`python -m lightning_dpo.train`: builds a run from its config and executes it.

Heavy imports are inside functions, so that `--help` and errors in the config do not wait for them.
"""

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_dpo.cli.checked import CheckedConfig, call
from lightning_dpo.cli.command_line import run, run_job
from lightning_dpo.cli.config import CONFIG_DIR, register_folders, register_resolvers, with_folder
from lightning_dpo.cli.hydra_checks import check_composed_configs
from lightning_dpo.errors import LoggedWarning, UserError, recorded_warnings
from lightning_dpo.printable import one_line
from lightning_dpo.run_folder import LAST, RunFolder
from lightning_dpo.runs.ranks import process_rank
from lightning_dpo.runs.settings_files import note_settings, resolved_settings, task_overrides
from lightning_dpo.runs.single_run import single_run
from lightning_dpo.runs.sweep_job import run_in_sweep

if TYPE_CHECKING:
    from lightning import Trainer
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from lightning_dpo.training.schedules import Schedule


log = logging.getLogger(__name__)

KEYS = {
    "model", "adapter", "reference", "data", "loss", "optimizer", "scheduler", "trainer", "logger", "callbacks",
    "resume", "suggested", "profile", "seed", "run_name", "run_folder", "ckpt_path", "sweep_folder", "sweep_objective",
}  # fmt: skip

# The length of the run that schedules are checked with. It is not known before the data are read.
_MANY_STEPS = 1_000_000


def train(config: DictConfig) -> float:
    """One run: check, build, fit, export, report.

    Args:
        config: The composed `conf/train.yaml`.

    Returns:
        The metric that `sweep_objective` names.
    """
    config = with_folder(config)
    with recorded_warnings() as warnings:
        return _train(config, warnings)


def _train(config: DictConfig, warnings: Sequence[LoggedWarning]) -> float:
    if config.ckpt_path is None:
        note_settings(config)
    checked = CheckedConfig(config, KEYS, task_overrides())
    started = time.perf_counter()

    from lightning import seed_everything

    from lightning_dpo import DPOModule
    from lightning_dpo.models import NoAdapter
    from lightning_dpo.reports.run_plots import draw_curves
    from lightning_dpo.reports.summary import conclude
    from lightning_dpo.runs import results
    from lightning_dpo.runs.loggers import end_wandb
    from lightning_dpo.runs.trainer import check_monitors, make_trainer
    from lightning_dpo.training.start_checks import check_columns, check_declared

    seed = checked.values["seed"]
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed} must be between 0 and {2**32 - 1}")
    seed_everything(seed, workers=True, verbose=False)
    loss, model, reference, adapter = (checked.build(key) for key in ("loss", "model", "reference", "adapter"))
    check_declared(loss)
    optimizer, scheduler = checked_optimization(checked)
    reference.check(loss, adapter)
    if getattr(model, "quantization", None) and isinstance(adapter, NoAdapter):
        raise UserError("model.quantization needs adapter=lora: quantized weights cannot be trained")
    last = checkpoint(config)
    data = checked.build("data", tokenizer=model.tokenizer(), chosen_only=not loss.needs_rejected)
    check_columns(loss, data.columns)
    trainer = make_trainer(config, checked, data)
    module = DPOModule(model, loss, reference, adapter, optimizer, scheduler, config.resume.allow)
    check_monitors(config, trainer, module)
    # Data that cannot be read must stop the run before a logger opens a run elsewhere.
    data.setup("fit")
    try:
        log_config(config, trainer)
        # weights_only=True: Lightning passes it to torch.load, so that a checkpoint cannot execute code.
        with explained():
            trainer.fit(module, data, ckpt_path=last, weights_only=True)
        seconds = time.perf_counter() - started
        objective = results.write(config, trainer, module, data, seconds, warnings, draw_curves)
        if trainer.is_global_zero:
            conclude(config.run_folder)
        return objective
    finally:
        end_wandb()


@contextmanager
def explained() -> Iterator[None]:
    """Convert errors that the user can correct: out of memory, with advice, and settings that Lightning rejects."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lightning_dpo.callbacks.memory import is_out_of_memory

    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error) and (notes := getattr(error, "__notes__", None)):
            raise UserError("; ".join(notes)) from error
        raise
    except (MisconfigurationException, ValueError) as error:
        # A ValueError of our own code is a bug; one that Lightning itself raises is about an argument of the Trainer.
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if isinstance(error, UserError) or not frame.f_globals["__name__"].startswith("lightning."):
            raise
        raise UserError(f"trainer: {one_line(str(error))}") from error


def checked_optimization(checked: CheckedConfig) -> "tuple[Callable[[Iterable[Parameter]], Optimizer], Schedule]":
    """The factories of the optimizer and its schedule.

    They are called once with a dummy parameter, so that invalid values are rejected before the model is loaded.
    """
    from torch import zeros
    from torch.nn import Parameter

    optimizer, scheduler = checked.build("optimizer"), checked.build("scheduler")
    call("scheduler", scheduler, call("optimizer", optimizer, [Parameter(zeros(1))]), _MANY_STEPS)
    return optimizer, scheduler


def log_config(config: DictConfig, trainer: "Trainer") -> None:
    """Log the whole config. This creates the wandb run."""
    for logger in trainer.loggers:
        logger.log_hyperparams(resolved_settings(config))


def checkpoint(config: DictConfig) -> str | None:
    """The checkpoint to resume from, or None.

    Raises:
        UserError: It does not exist, or it is damaged and the run has no other one.
    """
    from lightning_dpo.checkpoints.reading import check_resumable, damage_of, newest_whole, opened

    if config.ckpt_path is None:
        return None
    path, last = Path(config.ckpt_path), RunFolder(config.run_folder)
    if config.ckpt_path == LAST:
        path = newest_whole(last.checkpoints)
        if path != last.last and (damage := damage_of(last.last)):
            log.warning("%s %s; the run resumes from %s, which was written before it.", last.last, damage, path.name)
            if process_rank() == 0:  # the next checkpoint must not keep it as its predecessor
                last.last.replace(last.last.with_name("last.damaged"))
    saved = opened(path)
    check_resumable(saved, path)
    log.info("Resuming from %s, step %d.", path, saved["global_step"])
    return str(path)


def write_report(sweep: Path) -> list[Path]:
    """Write the report of a sweep."""
    from lightning_dpo.report import report

    return report(sweep)


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def job(config: DictConfig) -> float:
    """The Hydra job: a single run, or one of a sweep."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_in_sweep(partial(run_job, train), write_report, config)
    return run_job(partial(single_run, train), config)


# For `hydra.compose("train")` in a notebook. The command does it too.
register_folders()
register_resolvers()
check_composed_configs()


def main() -> None:
    """The console script."""
    run(job, "train")


if __name__ == "__main__":
    main()
