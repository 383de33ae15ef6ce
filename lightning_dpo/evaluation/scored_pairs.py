"""Collects the rewards of all pairs in a validation."""

from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.evaluation.accuracy import ScoredPair
from lightning_dpo.metrics import ValidationOutput


class ScoredPairs(Callback):
    """The pairs of a validation on one device, in order, as `pairs`."""

    def __init__(self) -> None:
        self.pairs: list[ScoredPair] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the pairs of an earlier validation."""
        self.pairs.clear()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: PreferenceBatch,
        *args: Any,
    ) -> None:
        """Add the pairs of a batch, without fillers."""
        output = cast(ValidationOutput, outputs)
        loss, logps = output["loss"], output["logps"]
        data = PreferenceDataModule.of(trainer, self)
        columns = (
            batch.pair_index, batch.source, batch.counted, *loss.rewards,
            logps.chosen_length, logps.rejected_length,
        )  # fmt: skip
        for row, source, counted, chosen_reward, rejected_reward, chosen, rejected in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            if counted:
                where, name = data.val_pairs[row]["where"], data.sources[source]
                pair = ScoredPair(where, name, chosen_reward, rejected_reward, int(chosen), int(rejected))
                self.pairs.append(pair)
