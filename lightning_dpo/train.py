"""`python -m lightning_dpo.train`: puts a run together from its config. The only file that knows all the others.

Heavy imports stand inside functions: `--help` does without them, and a mistake in the config is told before them.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_dpo.cli.command_line import run, told
from lightning_dpo.cli.config import CONFIG_DIR, build, call, check_all_arguments, check_names
from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.ranks import process_count, process_rank, started_by_others
from lightning_dpo.runs.settings_files import as_dict, note_settings, resolved_settings
from lightning_dpo.runs.state import claimed, record_failure, saved
from lightning_dpo.runs.sweep_job import run_in_sweep

if TYPE_CHECKING:
    from lightning import Trainer
    from torch.nn import Parameter
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from lightning_dpo import DPOModule, PreferenceDataModule
    from lightning_dpo.models.causal_lm import CausalLM

log = logging.getLogger(__name__)

KEYS = {
    "model", "adapter", "reference", "data", "loss", "optimizer", "scheduler", "trainer", "logger", "callbacks",
    "suggested", "profile", "seed", "run_name", "run_folder", "ckpt_path", "sweep_folder", "sweep_objective",
}  # fmt: skip


def train(config: DictConfig) -> float:
    """One run: check, build, fit, export, report.

    Args:
        config: `conf/train.yaml`, composed.

    Returns:
        The metric that `sweep_objective` names.
    """
    if config.ckpt_path is None:
        note_settings(config)
    check_names(config, KEYS)
    # The loss first: it is what people set most, and needs the fewest imports.
    loss = build(config, "loss")
    check_all_arguments(config)
    started = time.perf_counter()

    from lightning import seed_everything

    from lightning_dpo import DPOModule
    from lightning_dpo.reports.run_plots import draw_curves
    from lightning_dpo.runs import results
    from lightning_dpo.runs.loggers import end_wandb

    seed_everything(config.seed, workers=True, verbose=False)
    model, reference, optimizer = build(config, "model"), build(config, "reference"), checked_optimizer(config)
    adapter = build(config, "adapter")
    reference.check(loss)
    last = checkpoint(config)
    data = build(config, "data", tokenizer=model.tokenizer(), chosen_only=not loss.needs_rejected)
    trainer = make_trainer(config, data)
    policy = partial(fitting_policy, model, data)
    module = DPOModule(policy, loss, reference, adapter, optimizer, build(config, "scheduler"))
    check_monitors(config, trainer, module)
    # Before loggers open runs for data that cannot be read.
    data.setup("fit")
    try:
        log_config(config, trainer)
        with explained_memory():
            trainer.fit(module, data, ckpt_path=last, weights_only=True)
        return results.write(config, trainer, module, data, time.perf_counter() - started, draw_curves)
    finally:
        end_wandb()


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn an out-of-memory error into the sentence that says what helps, where the memory callback left one."""
    from lightning_dpo.callbacks.memory import is_out_of_memory

    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error) and (notes := getattr(error, "__notes__", None)):
            raise UserError("; ".join(notes)) from error
        raise


def fitting_policy(model: "CausalLM", data: "PreferenceDataModule") -> "PreTrainedModel":
    """The policy, once it is known to have an embedding for every token and every position."""
    from lightning_dpo.models.causal_lm import check_fits

    policy = model.policy()
    check_fits(policy, data.tokenizer, data.max_length)
    return policy


def checked_optimizer(config: DictConfig) -> "Callable[[Iterable[Parameter]], Optimizer]":
    """The optimizer's factory, tried on one number: it would refuse its values only after the model is loaded."""
    from torch import zeros
    from torch.nn import Parameter

    optimizer = build(config, "optimizer")
    call("optimizer", optimizer, [Parameter(zeros(1))])
    return optimizer


def make_trainer(config: DictConfig, data: "PreferenceDataModule") -> "Trainer":
    """The Trainer with its loggers and callbacks, its precision and its accumulation."""
    from lightning.pytorch.callbacks import LambdaCallback

    from lightning_dpo.callbacks.same_settings import Agreement
    from lightning_dpo.runs.loggers import join_lightning_logs
    from lightning_dpo.training.precision import default_precision
    from lightning_dpo.training.step_timer import PartTimes

    if "accumulate_grad_batches" in config.trainer:
        raise UserError(
            "trainer.accumulate_grad_batches follows from data.pairs_per_step and data.batch_size: set those"
        )
    join_lightning_logs()
    given, config = config, config.copy()
    if config.trainer.precision is None:
        config.trainer.precision = default_precision(config.trainer.accelerator)
    loggers, callbacks = (list(build(config, key).values()) for key in ("logger", "callbacks"))
    alike = Agreement(as_dict(config, resolve=True))
    # A run that goes on has its settings noted; others are, once the checkpoint has been taken for theirs.
    accepted = LambdaCallback(on_train_start=lambda *_: note_settings(given))
    profiler = {"profiler": PartTimes()} if profiled(config) else {}
    trainer = build(config, "trainer", logger=loggers, callbacks=[*callbacks, alike, accepted], **profiler)
    if started_by_others() and trainer.world_size != process_count():
        raise UserError(
            f"{process_count()} processes were started, and trainer.devices={config.trainer.devices} with "
            f"trainer.num_nodes={config.trainer.num_nodes} makes {trainer.world_size}: set these two to what was "
            "started, and strategy=ddp or strategy=fsdp"
        )
    if data.pairs_per_step is not None:
        data.fit_batch_size(trainer.world_size)
        trainer.accumulate_grad_batches = data.pairs_per_step // (data.batch_size * trainer.world_size)
    return trainer


def check_monitors(config: DictConfig, trainer: "Trainer", module: "DPOModule") -> None:
    """Refuse a callback that waits for a metric that the run will not have."""
    from lightning.pytorch.callbacks import LambdaCallback

    from lightning_dpo.callbacks.monitors import check_monitor, known_metrics
    from lightning_dpo.training.trainer_attributes import callbacks_of

    # A config cannot name a LambdaCallback: the one there is notes the settings, and logs nothing.
    known = known_metrics(module, [one for one in callbacks_of(trainer) if not isinstance(one, LambdaCallback)])
    for name, node in config.callbacks.items():
        check_monitor(f"callbacks.{name}.monitor", (node or {}).get("monitor"), known)


def profiled(config: DictConfig) -> bool:
    """Whether to log how long the parts of each step take.

    Raises:
        UserError: The answer is neither yes nor no, or nothing would log it.
    """
    profile = config.get("profile", False)
    if not isinstance(profile, bool):
        raise UserError(f"profile={profile}: say true or false")
    if profile and not config.callbacks.get("throughput"):
        raise UserError("profile=true has no effect without callbacks.throughput, which logs it")
    return profile


def log_config(config: DictConfig, trainer: "Trainer") -> None:
    """Give the loggers the whole config; with this wandb's run begins."""
    for logger in trainer.loggers:
        logger.log_hyperparams(resolved_settings(config))


def checkpoint(config: DictConfig) -> str | None:
    """The checkpoint to go on from, or None.

    Raises:
        UserError: It is not there.
    """
    if config.ckpt_path is None:
        return None
    path = RunFolder(config.run_folder).last if config.ckpt_path == "last" else Path(config.ckpt_path)
    if not path.exists():
        raise UserError(f"ckpt_path={config.ckpt_path}: {path} is not there")
    log.info("Going on from %s.", path)
    return str(path)


def alone(config: DictConfig) -> float:
    """A single run. Where it fails, `error.txt` has the reason; where it stops, the exception has what was saved."""
    if config.sweep_folder is not None:
        raise UserError("sweep_folder has no effect without a sweep: choose one by sweep=..., or give values with -m")
    folder = Path(config.run_folder)
    first = process_rank() == 0
    with claimed(folder) if first else nullcontext():
        if first:
            RunFolder(folder).error.unlink(missing_ok=True)  # of the attempt that this one resumes
        try:
            return train(config)
        except BaseException as error:
            failed = isinstance(error, Exception)  # else a signal stopped it
            if failed:
                with suppress(OSError):  # on a full disk, the run ends by `error` all the same
                    record_failure(folder, error)
            if RunFolder(folder).last.exists():
                error.add_note(f"{saved(folder)}; resume with ckpt_path=last")
            elif not failed:
                error.add_note(saved(folder))
            raise


def write_report(sweep: Path) -> list[Path]:
    """Write the report of a sweep's folder."""
    from lightning_dpo.report import report

    return report(sweep)


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def job(config: DictConfig) -> float:
    """The Hydra job: a run alone, or one of a sweep."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_in_sweep(partial(told, train), write_report, config)
    return told(alone, config)


def main() -> None:
    """The console script."""
    run(job, "train")


if __name__ == "__main__":
    main()
