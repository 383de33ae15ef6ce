"""A hook of callbacks that Lightning does not have."""

from typing import TYPE_CHECKING

from lightning import Callback, Trainer

from lightning_dpo.training.trainer_attributes import callbacks_of

if TYPE_CHECKING:
    from lightning_dpo.training.policy_module import PolicyModule


class ModelCallback(Callback):
    """A callback that uses the models before a checkpoint is loaded."""

    def on_model_opened(self, trainer: Trainer, pl_module: "PolicyModule") -> None:
        """Called in `configure_model`, when the models are on their devices. `setup` has prepared the data."""


def model_opened(trainer: Trainer, pl_module: "PolicyModule") -> None:
    """Call the hook of all callbacks, in their order."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, ModelCallback):
            callback.on_model_opened(trainer, pl_module)
