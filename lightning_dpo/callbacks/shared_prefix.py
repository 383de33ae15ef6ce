"""Chooses the layout of batches, by testing it with the policy, before the first batch is made."""

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

    Lightning creates loaders while it sets up the strategy, when it needs only their lengths. Loaders make their first
    batch after the hooks below. In these hooks the models are on their devices and, with FSDP, sharded.
    """

    def __init__(self) -> None:
        self._chosen: WeakKeyDictionary[PreferenceDataModule, tuple[ReferenceType[LightningModule], Layout]]
        self._chosen = WeakKeyDictionary()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the layout.

        Raises:
            UserError: `layout=shared` is set and the policy does not support it, or `max_tokens` is exceeded.
        """
        self._choose(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the layout for loaders that did not exist before."""
        self._choose(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the layout for a validation outside `fit`. In `fit`, it does not change."""
        self._choose(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the layout for a test."""
        self._choose(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the layout for a prediction."""
        self._choose(trainer, pl_module)

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, PolicyModule):
            return
        for data in _data_modules(trainer):
            if data not in self._chosen or self._chosen[data][0]() is not pl_module:
                longest = partial(data.longest_pairs, TRIED)
                layout = chosen_layout(data.layout, data.layouts, longest, pl_module.models, trainer)
                # A weak reference: the weights must not stay in memory as long as the data module.
                self._chosen[data] = (ref(pl_module), layout)
                data.use_layout(layout)
            elif data.collate.layout is not self._chosen[data][1]:  # another policy used the data in between
                data.use_layout(self._chosen[data][1])


def _data_modules(trainer: Trainer) -> Iterator[PreferenceDataModule]:
    """The data modules that make the Trainer's batches. A user's data module may wrap one or several."""
    data = datamodule_of(trainer)
    if isinstance(data, PreferenceDataModule):
        yield data
        return
    makers = {loader.made_by: None for loader in loaders_of(trainer) if isinstance(loader, StepLoader)}
    yield from (maker for maker in makers if isinstance(maker, PreferenceDataModule))
