"""The settings that a checkpoint and the run that resumes from it must have in common."""

from collections.abc import Collection
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dpo.errors import UserError
from lightning_dpo.losses.interface import PreferenceLossFunction
from lightning_dpo.models.adapter import describe as describe_adapter
from lightning_dpo.models.digests import weights_digest
from lightning_dpo.models.reference import Reference
from lightning_dpo.training.schedules import Schedule, depends_on_length, describe

_WEIGHTS, _ADAPTER = "starting weights (sha256)", "adapter"
# These change how an update is computed, and not its result.
_NO_RESULT = ("params", "initial_lr", "foreach", "fused", "capturable", "differentiable")


class TrainedWith:
    """The settings and weights that a training depends on. A checkpoint stores them.

    Lightning restores optimizer and schedule from the checkpoint and ignores those of the config, so a changed setting
    would have no effect. The starting weights are the reference or the base of an adapter, and not in the checkpoint.

    Args:
        loss: The loss.

    Attributes:
        settings: The settings known so far, by name.
    """

    def __init__(self, loss: PreferenceLossFunction) -> None:
        self.settings: dict[str, str] = {"loss": repr(loss)}
        self._saved: dict[str, str] = {}

    def starts_from(self, policy: nn.Module) -> None:
        """Record the policy's weights before an adapter is added."""
        self.settings[_WEIGHTS] = weights_digest(policy)

    def trains(self, policy: nn.Module, reference: Reference | None) -> None:
        """Record the adapter and the reference; a reference other than the starting weights, by its digest."""
        if isinstance(policy, PeftModel):
            self.settings[_ADAPTER] = describe_adapter(policy)
        if reference is None:
            self.settings["reference"] = "none"
        elif reference.model is None or reference.starts_equal:
            self.settings["reference"] = "the starting weights"
        else:
            self.settings["reference"] = f"other weights (sha256 {weights_digest(reference.model)})"

    def optimizes_by(self, optimizer: Optimizer, schedule: Schedule, steps: int) -> None:
        """Record optimizer and schedule, and compare them with the checkpoint if it has been read.

        Args:
            optimizer: The optimizer, before a schedule changes its learning rates.
            schedule: Creates the schedule.
            steps: Number of optimizer steps of the run.

        Raises:
            UserError: They differ; the message contains the difference.
        """
        self.settings |= optimizer_settings(optimizer) | {"scheduler": describe(schedule)}
        if depends_on_length(schedule):
            self.settings["optimizer steps of the run (trainer.max_epochs, trainer.max_steps)"] = str(steps)
        # Usually, Lightning restores the checkpoint before it creates the optimizer, and the comparison is completed
        # here. With FSDP, it restores later, and `resumes` compares everything.
        self._check(self._saved)

    def resumes(self, saved: dict[str, str]) -> None:
        """Compare with a checkpoint's settings: those that are known now, and the others as soon as they are.

        Raises:
            UserError: They differ; the message contains the difference.
        """
        self._saved = saved
        self._check(saved)

    def opens(self, saved: dict[str, str]) -> None:
        """Compare with the settings of a checkpoint of which only the weights are used.

        How they were trained does not matter. The base model of an adapter does, because it is not in the checkpoint.

        Raises:
            UserError: They differ; the message contains the difference.
        """
        self._check(saved, {_ADAPTER, _WEIGHTS} if _ADAPTER in self.settings else {})

    def _check(self, saved: dict[str, str], names: Collection[str] | None = None) -> None:
        known = [name for name in saved if name in self.settings and (names is None or name in names)]
        changed = [
            f"{name} {saved[name]} instead of {self.settings[name]}"
            for name in known
            if saved[name] != self.settings[name]
        ]
        if changed:
            raise UserError(
                f"the checkpoint was trained with {', '.join(changed)}: restore the setting, or start a new run"
            )


def optimizer_settings(optimizer: Optimizer) -> dict[str, str]:
    """The settings of an optimizer, by config key."""
    settings = {"optimizer": type(optimizer).__name__}
    for index, group in enumerate(optimizer.param_groups):
        key = "optimizer" if len(optimizer.param_groups) == 1 else f"optimizer[{index}]"
        settings |= {f"{key}.{name}": _plain(value) for name, value in group.items() if name not in _NO_RESULT}
    return settings


def _plain(value: Any) -> str:
    value = value.item() if isinstance(value, Tensor) else value
    return str(list(value) if isinstance(value, tuple) else value)


def check_tensors(trained: Collection[str], found: Collection[str]) -> None:
    """Check that a checkpoint has the tensors of the adapter.

    Args:
        trained: Names of the trained tensors.
        found: Names of the tensors in the checkpoint.

    Raises:
        UserError: They differ.
    """
    if different := set(trained) ^ set(found):
        raise UserError(
            f"the checkpoint has another adapter: {len(different)} tensors differ, the first is {min(different)}; set "
            "adapter.* to the values that it was trained with"
        )
