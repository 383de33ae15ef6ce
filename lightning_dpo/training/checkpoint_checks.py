"""What a checkpoint must have in common with the run that resumes from it."""

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
# How an optimizer computes its update, not which update it is.
_NO_RESULT = ("params", "initial_lr", "foreach", "fused", "capturable", "differentiable")


class TrainedWith:
    """The settings and weights that decide what a checkpoint means, and what its training would have become.

    Lightning restores optimizer and schedule over those of the config. The starting weights are the reference, or what
    is under an adapter, and neither is in a checkpoint.

    Args:
        loss: The loss.

    Attributes:
        settings: What is known so far, by name; a checkpoint holds it.
    """

    def __init__(self, loss: PreferenceLossFunction) -> None:
        self.settings: dict[str, str] = {"loss": repr(loss)}
        self._saved: dict[str, str] = {}

    def starts_from(self, policy: nn.Module) -> None:
        """Note the policy's weights before an adapter is put on it."""
        self.settings[_WEIGHTS] = weights_digest(policy)

    def trains(self, policy: nn.Module, reference: Reference | None) -> None:
        """Note the adapter and the reference: by its weights where the policy did not start from them."""
        if isinstance(policy, PeftModel):
            self.settings[_ADAPTER] = describe_adapter(policy)
        if reference is None:
            self.settings["reference"] = "none"
        elif reference.model is None or reference.starts_equal:
            self.settings["reference"] = "the starting weights"
        else:
            self.settings["reference"] = f"other weights (sha256 {weights_digest(reference.model)})"

    def optimizes_by(self, optimizer: Optimizer, schedule: Schedule, steps: int) -> None:
        """Note optimizer and schedule, as they are made, and compare with the checkpoint where that is read already.

        Args:
            optimizer: Before a schedule has changed its learning rates.
            schedule: What makes the schedule.
            steps: Optimizer steps of the run.

        Raises:
            UserError: Names what differs.
        """
        self.settings |= optimizer_settings(optimizer) | {"scheduler": describe(schedule)}
        if depends_on_length(schedule):
            self.settings["optimizer steps of the run (trainer.max_epochs, trainer.max_steps)"] = str(steps)
        self._check(self._saved)

    def resumes(self, saved: dict[str, str]) -> None:
        """Compare with a checkpoint's settings: with all that are known now, and with others once they are.

        Raises:
            UserError: Names what differs.
        """
        self._saved = saved
        self._check(saved)

    def opens(self, saved: dict[str, str]) -> None:
        """Compare with the settings of a checkpoint whose weights are wanted, to evaluate them or to start from them.

        How they were trained does not matter. What is under an adapter does: it is in no checkpoint.

        Raises:
            UserError: Names what differs.
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
            raise UserError(f"the checkpoint was trained with {', '.join(changed)}: set it back, or start a new run")


def optimizer_settings(optimizer: Optimizer) -> dict[str, str]:
    """The values that an optimizer was made with, by config key."""
    settings = {"optimizer": type(optimizer).__name__}
    for number, group in enumerate(optimizer.param_groups):
        key = "optimizer" if len(optimizer.param_groups) == 1 else f"optimizer[{number}]"
        settings |= {f"{key}.{name}": _plain(value) for name, value in group.items() if name not in _NO_RESULT}
    return settings


def _plain(value: Any) -> str:
    value = value.item() if isinstance(value, Tensor) else value
    return str(list(value) if isinstance(value, tuple) else value)


def check_tensors(trained: Collection[str], found: Collection[str]) -> None:
    """Refuse a checkpoint of another adapter.

    Args:
        trained: Names of the tensors that are trained.
        found: Those in the checkpoint.

    Raises:
        UserError: They differ.
    """
    if different := set(trained) ^ set(found):
        raise UserError(
            f"the checkpoint is of another adapter: it differs in {len(different)} tensors, the first "
            f"of them {min(different)}; give the adapter.* that it was trained with"
        )
