"""The optimizer of a module and its schedule, also after a resume with other settings."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from lightning_dpo.checkpoints.identity import Identity
from lightning_dpo.errors import UserError
from lightning_dpo.training.optimizers import optimizer_facts, optimizer_of, settings_of
from lightning_dpo.training.schedules import Schedule, check_length, restarted, run_length, schedule_facts


class Optimization:
    """Creates the optimizer and the schedule, and adds them to the identity of the training.

    Args:
        make_optimizer: Creates the optimizer of the trainable parameters.
        make_schedule: Creates the learning-rate schedule: a function of `(optimizer, total_steps)`, per optimizer step.

    Raises:
        UserError: One of the two is not a function.
    """

    def __init__(self, make_optimizer: OptimizerCallable, make_schedule: Schedule) -> None:
        examples = {
            "optimizer": "partial(torch.optim.AdamW, lr=1e-5)",
            "scheduler": "partial(warmup_cosine, warmup_steps=10)",
        }
        for name, value in {"optimizer": make_optimizer, "scheduler": make_schedule}.items():
            if not callable(value):
                raise UserError(f"{name}={value!r} must be a function that creates it, such as {examples[name]}")
        self.make_optimizer, self.make_schedule = make_optimizer, make_schedule
        self._settings: list[dict[str, Any]] = []  # by parameter group
        self._steps = 0  # of the run

    def check_length(self, trainer: Trainer) -> None:
        """Check, before data and model are read, that the run has a length if the schedule depends on it.

        Raises:
            UserError: It has none.
        """
        check_length(self.make_schedule, known=trainer.max_steps != -1 or trainer.max_epochs != -1)

    def configure(self, policy: nn.Module, trainer: Trainer, identity: Identity) -> OptimizerLRSchedulerConfig:
        """The optimizer of the trainable parameters and its schedule per optimizer step.

        Raises:
            UserError: No parameter is trainable, or the settings differ from those of the checkpoint.
        """
        optimizer = optimizer_of(policy, self.make_optimizer)
        # This property creates the training loader.
        self._steps = run_length(trainer, self.make_schedule)
        self._settings = settings_of(optimizer)  # before a schedule changes the learning rates
        identity.add("shape", {"optimizer": type(optimizer).__name__})
        identity.add("optimizer", optimizer_facts(self._settings))
        identity.add("scheduler", schedule_facts(self.make_schedule, self._steps))
        schedule = self.make_schedule(optimizer, self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def apply_new_settings(self, trainer: Trainer, identity: Identity) -> None:
        """Use the settings of the run, if `resume.allow` permits that they differ from those of the checkpoint.

        Lightning has restored those of the checkpoint.
        """
        if identity.waived & {"optimizer", "scheduler"}:
            (config,), (optimizer,) = trainer.lr_scheduler_configs, trainer.optimizers
            arguments = self._settings, self.make_schedule, self._steps, trainer.global_step
            config.scheduler = restarted(optimizer, *arguments)
