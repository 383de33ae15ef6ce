import lightning
import pytest

from lightning_dpo import DPOModule, PreferenceDataModule
from tests.support.models import make_llama
from tests.support.training import trainer_for


class Rows(lightning.Callback):
    """Rows of the pairs in the batches of a run, and the pairs that it was expected to read."""

    def __init__(self) -> None:
        self.trained, self.validated = set(), set()

    def on_train_start(self, trainer, pl_module):
        data = trainer.datamodule
        self.expected = [set(pairs["where"]) for pairs in data.pairs_read(trainer)]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trained |= {trainer.datamodule.train_pairs[row]["where"] for row in batch.pair_index.tolist()}

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.validated |= {trainer.datamodule.val_pairs[row]["where"] for row in batch.pair_index.tolist()}


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 1}, {"max_steps": 2}, {"max_steps": 4, "max_epochs": 9}, {"max_steps": 9, "max_epochs": 9},
        {"limit_train_batches": 4, "max_epochs": 1}, {"limit_train_batches": 4, "max_epochs": 2},
        {"max_epochs": 1, "limit_val_batches": 1}, {"fast_dev_run": 2},
    ],
)  # fmt: skip
def test_a_run_reads_the_pairs_that_were_expected(tmp_path, pairs_file, tokenizer, options):
    data = PreferenceDataModule(
        str(pairs_file), tokenizer=tokenizer, batch_size=2, pairs_per_step=4, val_fraction=0.2, seed=3
    )
    rows = Rows()
    trainer = trainer_for(tmp_path, accumulate_grad_batches=2, callbacks=[rows], **options)
    trainer.fit(DPOModule(make_llama()), data)
    validated, trained = rows.expected
    assert rows.trained == trained
    assert rows.validated <= validated  # without a validation after the last step, none
