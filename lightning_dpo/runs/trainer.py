"""The Trainer of a run: its loggers, callbacks, precision and gradient accumulation."""

import os
from typing import TYPE_CHECKING, Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, LambdaCallback, ProgressBar
from omegaconf import DictConfig

from lightning_dpo.callbacks.monitors import check_monitor, known_metrics
from lightning_dpo.callbacks.progress_bar import PreferenceProgressBar
from lightning_dpo.callbacks.same_settings import Agreement
from lightning_dpo.callbacks.validation import ValidationSchedule
from lightning_dpo.errors import UserError
from lightning_dpo.runs.loggers import join_lightning_logs
from lightning_dpo.runs.ranks import process_count, started_by_others
from lightning_dpo.runs.settings_files import as_dict, note_settings
from lightning_dpo.training.precision import default_precision
from lightning_dpo.training.step_timer import PartTimes
from lightning_dpo.training.trainer_attributes import callbacks_of
from lightning_dpo.training.trainer_settings import DERIVED
from lightning_dpo.training.whole_steps import check_limits, check_strategy

if TYPE_CHECKING:
    from lightning_dpo.cli.checked import CheckedConfig
    from lightning_dpo.data.datamodule import PreferenceDataModule
    from lightning_dpo.module import DPOModule

# Arguments that Lightning rejects together with `barebones`.
_NOT_BAREBONES = ("log_every_n_steps", "num_sanity_val_steps", "enable_model_summary", "detect_anomaly", "profiler")


def make_trainer(config: DictConfig, checked: "CheckedConfig", data: "PreferenceDataModule") -> Trainer:
    """The Trainer of a run.

    Args:
        config: The composed config.
        checked: The same config, checked.
        data: The data module, which decides how many pairs an optimizer step has.

    Raises:
        UserError: A setting of the Trainer has no effect, or contradicts another one.
    """
    settings = checked.values["trainer"]
    for key, advice in DERIVED.items():
        if settings.get(key) is not None:
            raise UserError(f"trainer.{key} {advice}")
    join_lightning_logs()
    steps, barebones = settings.get("val_check_steps"), bool(settings.get("barebones"))
    for name in _NOT_BAREBONES if barebones else ():
        settings.pop(name, None)
    if settings.get("devices") == "auto" and "LOCAL_WORLD_SIZE" in os.environ and started_by_others():
        # Those of torchrun, because Lightning's `auto` is a single device on CPUs.
        settings["devices"] = int(os.environ["LOCAL_WORLD_SIZE"])
    precision = config.trainer.precision or default_precision(config.trainer.accelerator)
    loggers = [] if barebones else list(checked.build("logger").values())
    callbacks = _without_conflicts(list(checked.build("callbacks").values()), settings)
    same_settings = Agreement(as_dict(config, resolve=True) | {"precision": precision})
    # A resumed run replaces config.yaml only after its checkpoint has been accepted.
    accepted = LambdaCallback(on_train_start=lambda *_: note_settings(config))
    try:
        schedule = ValidationSchedule(steps)
    except ValueError as error:
        raise UserError(f"trainer.val_check_steps={steps}: {error}") from error
    callbacks += [schedule, same_settings, accepted]
    derived: dict[str, Any] = {"logger": loggers or False, "callbacks": callbacks, "precision": precision}
    if profiled(config):
        derived["profiler"] = PartTimes()
    trainer: Trainer = checked.build("trainer", **derived)
    if started_by_others() and trainer.world_size != process_count():
        raise UserError(
            f"{process_count()} processes were started, but trainer.devices={config.trainer.devices} and "
            f"trainer.num_nodes={config.trainer.num_nodes} make {trainer.world_size}: set both to the numbers that "
            "were started, and set strategy=ddp or strategy=fsdp"
        )
    if data.pairs_per_step is not None:
        data.fit_batch_size(trainer.world_size)
        trainer.accumulate_grad_batches = data.pairs_per_step // (data.batch_size * trainer.world_size)
    check_strategy(trainer)
    check_limits(trainer)
    return trainer


def _without_conflicts(callbacks: list[Callback], settings: dict[str, Any]) -> list[Callback]:
    """The callbacks that the arguments of the Trainer leave, and one progress bar: the user's, if there is one."""
    barebones = bool(settings.get("barebones"))
    left_out: tuple[type[Callback], ...] = ()
    if barebones or settings.get("enable_progress_bar") is False:
        left_out += (ProgressBar,)
    elif sum(isinstance(one, ProgressBar) for one in callbacks) > 1:
        left_out += (PreferenceProgressBar,)
    if barebones or settings.get("enable_checkpointing") is False:
        left_out += (Checkpoint,)
    return [one for one in callbacks if not isinstance(one, left_out)]


def check_monitors(config: DictConfig, trainer: Trainer, module: "DPOModule") -> None:
    """Reject a callback that monitors a metric which the run does not log."""
    # The LambdaCallback is the one of `make_trainer`, which logs nothing: a config cannot contain one.
    known = known_metrics(module, [one for one in callbacks_of(trainer) if not isinstance(one, LambdaCallback)])
    for name, node in config.callbacks.items():
        check_monitor(f"callbacks.{name}", (node or {}).get("monitor"), (node or {}).get("mode"), known)


def profiled(config: DictConfig) -> bool:
    """Whether to log the duration of the parts of each step.

    Raises:
        UserError: `profile` is not a bool, or no callback would log it.
    """
    profile = config.get("profile", False)
    if not isinstance(profile, bool):
        raise UserError(f"profile={profile} must be true or false")
    if profile and not config.callbacks.get("throughput"):
        raise UserError("profile=true has no effect without callbacks.throughput, which logs it")
    return profile
