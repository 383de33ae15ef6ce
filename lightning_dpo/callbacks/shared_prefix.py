"""Chooses the layout of batches, by trying the policy, before the first batch is drawn."""

from typing import TYPE_CHECKING, cast
from weakref import ReferenceType, ref

from lightning import Callback, LightningModule, Trainer

from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.layouts import Layout
from lightning_dpo.shared_prefix.choice import TRIED, chosen_layout
from lightning_dpo.training.trainer_attributes import datamodule_of

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule


class SharedPrefix(Callback):
    """Gives a `PreferenceDataModule` the layout that `layout=auto` stands for. `DPOModule` adds this callback itself.

    Lightning creates loaders while it sets the strategy up, when it needs only their lengths. Their first batch is
    drawn after `on_fit_start` or `on_validation_start`, where the models are on their devices, and sharded if they are
    to be.
    """

    def __init__(self) -> None:
        self._chosen: tuple[ReferenceType[LightningModule], ReferenceType[PreferenceDataModule], Layout] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose.

        Raises:
            UserError: `layout=shared` was set, and the policy cannot use it; or `max_tokens` is exceeded.
        """
        self._choose(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose, for a validation without a fit; within a fit, the layout stays."""
        self._choose(trainer, pl_module)

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = datamodule_of(trainer)
        if not isinstance(data, PreferenceDataModule):  # a data module of the user's makes its batches itself
            return
        if self._chosen is None or self._chosen[0]() is not pl_module or self._chosen[1]() is not data:
            module = cast("DPOModule", pl_module)
            layout = chosen_layout(data.layout, data.layouts, data.longest_pairs(TRIED), module.models, trainer)
            # Not the module itself: its weights would stay in memory as long as the Trainer.
            self._chosen = (ref(pl_module), ref(data), layout)
            data.use_layout(layout)
        if data.collate.layout is not self._chosen[2]:  # it may have served another policy since
            data.use_layout(self._chosen[2])
