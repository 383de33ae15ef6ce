"""Chooses the layout of batches, by trying the policy, before the first batch is drawn."""

from collections.abc import Iterator
from functools import partial
from weakref import ReferenceType, WeakKeyDictionary, ref

from lightning import Callback, LightningModule, Trainer

from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.data.steps.loader import StepLoader
from lightning_dpo.layouts import Layout
from lightning_dpo.shared_prefix.choice import TRIED, chosen_layout
from lightning_dpo.training.policy_module import PolicyModule
from lightning_dpo.training.trainer_attributes import datamodule_of, loaders_of


class SharedPrefix(Callback):
    """Chooses the layout for `layout=auto`. `DPOModule.configure_callbacks` adds this callback.

    Lightning creates loaders while it sets up the strategy, when it needs only their lengths. Their first batch is
    drawn after the hooks below, in which the models are on their devices, and sharded if they will be.
    """

    def __init__(self) -> None:
        self._chosen: WeakKeyDictionary[PreferenceDataModule, tuple[ReferenceType[LightningModule], Layout]]
        self._chosen = WeakKeyDictionary()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose.

        Raises:
            UserError: `layout=shared` was set, and the policy cannot use it; or `max_tokens` is exceeded.
        """
        self._choose(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose for loaders that did not exist before."""
        self._choose(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose, for a validation without a fit; within a fit, the layout stays."""
        self._choose(trainer, pl_module)

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, PolicyModule):
            return
        for data in _data_modules(trainer):
            if data not in self._chosen or self._chosen[data][0]() is not pl_module:
                longest = partial(data.longest_pairs, TRIED)
                layout = chosen_layout(data.layout, data.layouts, longest, pl_module.models, trainer)
                # Not the module itself: its weights would stay in memory as long as the data.
                self._chosen[data] = (ref(pl_module), layout)
                data.use_layout(layout)
            elif data.collate.layout is not self._chosen[data][1]:  # it has served another policy since
                data.use_layout(self._chosen[data][1])


def _data_modules(trainer: Trainer) -> Iterator[PreferenceDataModule]:
    """Those that make the Trainer's batches; a custom data module may wrap one or several."""
    data = datamodule_of(trainer)
    if isinstance(data, PreferenceDataModule):
        yield data
        return
    makers = {loader.made_by: None for loader in loaders_of(trainer) if isinstance(loader, StepLoader)}
    yield from (maker for maker in makers if isinstance(maker, PreferenceDataModule))
