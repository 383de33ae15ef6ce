"""Chooses the layout of batches, by testing it with the policy, before the first batch is made."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from lightning import LightningModule, Trainer
from transformers import PreTrainedModel

from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.data.steps.loader import StepLoader
from lightning_dpo.layouts import Layout
from lightning_dpo.shared_prefix.choice import TRIED, chosen_layout
from lightning_dpo.training.model_hooks import ModelCallback
from lightning_dpo.training.policy_module import PolicyModule
from lightning_dpo.training.trainer_attributes import datamodule_of, loaders_of


class SharedPrefix(ModelCallback):
    """Chooses the layout for `layout=auto`. `DPOModule.configure_callbacks` adds this callback.

    Lightning creates loaders while it sets up the strategy, when it needs only their lengths. Loaders make their first
    batch after the hooks below. In these hooks the models are on their devices and, with FSDP, sharded.
    """

    def __init__(self) -> None:
        self._chosen: WeakKeyDictionary[PreferenceDataModule, tuple[ReferenceType[LightningModule], Layout]]
        self._chosen = WeakKeyDictionary()

    def on_model_opened(self, trainer: Trainer, pl_module: PolicyModule) -> None:
        """Choose the layout for the Trainer's data module.

        Raises:
            UserError: `layout=shared` is set and the policy does not support it, or `max_tokens` is exceeded.
        """
        with torch.device("cpu"):  # Lightning creates models in a context with another default device
            self._choose(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the layout for other data modules."""
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
                tested, copies = _tested(pl_module)
                with ExitStack() as stack:
                    if pl_module.reference is not None and len(tested) > 1:
                        stack.enter_context(pl_module.reference.active())  # on the device
                    layout = chosen_layout(data.layout, data.layouts, longest, tested, trainer, copies)
                # A weak reference: the weights must not stay in memory as long as the data module.
                self._chosen[data] = (ref(pl_module), layout)
                data.use_layout(layout)
            elif data.collate.layout is not self._chosen[data][1]:  # another policy used the data in between
                data.use_layout(self._chosen[data][1])


def _tested(module: PolicyModule) -> tuple[list[PreTrainedModel], list[PreTrainedModel]]:
    """The policy, and the reference if it is another model; and the reference if it is a copy of the policy."""
    policy, *own = module.models
    is_copy = module.reference is not None and module.reference.starts_equal
    return ([policy], own) if is_copy else ([policy, *own], [])


def _data_modules(trainer: Trainer) -> Iterator[PreferenceDataModule]:
    """The data modules that make the Trainer's batches. A user's data module may wrap one or several."""
    data = datamodule_of(trainer)
    if isinstance(data, PreferenceDataModule):
        yield data
        return
    makers = {loader.made_by: None for loader in loaders_of(trainer) if isinstance(loader, StepLoader)}
    yield from (maker for maker in makers if isinstance(maker, PreferenceDataModule))
