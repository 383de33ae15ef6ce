"""Collects what a validation says of every pair."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.evaluation import ScoredPair


class ScoredPairs(Callback):
    """The pairs of a validation on one device, in their order, as `pairs`."""

    def __init__(self) -> None:
        self.pairs: list[ScoredPair] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self.pairs.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PreferenceBatch, *args: Any
    ) -> None:
        """Take the pairs that count."""
        loss, logps = outputs["losses"], outputs["logps"]
        data = trainer.datamodule
        columns = (
            batch.pair_index, batch.source, batch.counted, loss.chosen_rewards, loss.rejected_rewards,
            logps.chosen_length, logps.rejected_length,
        )  # fmt: skip
        for row, source, counted, *rewards, chosen, rejected in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            if counted:
                where = data.val_pairs[row]["where"]
                self.pairs.append(ScoredPair(where, data.sources[source], *rewards, int(chosen), int(rejected)))
