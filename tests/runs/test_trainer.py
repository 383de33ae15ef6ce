"""Arguments of the Trainer on the command line, and the callbacks and loggers that they leave."""

import pytest
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, TQDMProgressBar

from lightning_dpo.callbacks import PreferenceProgressBar
from lightning_dpo.cli.checked import CheckedConfig
from lightning_dpo.errors import UserError
from lightning_dpo.runs.trainer import make_trainer
from lightning_dpo.train import KEYS
from lightning_dpo.training.trainer_attributes import callbacks_of
from tests.support.compose import composed

TQDM = "+callbacks.mine._target_=lightning.pytorch.callbacks.TQDMProgressBar"


def made(folder, *overrides):
    """The Trainer of a run of the default task."""
    config = composed(folder, "trainer.accelerator=cpu", "logger=csv", *overrides)
    checked = CheckedConfig(config, KEYS)
    data = checked.build("data", tokenizer=checked.build("model").tokenizer(), chosen_only=False)
    return make_trainer(config, checked, data)


@pytest.mark.parametrize(
    ("overrides", "bars", "checkpoints", "loggers"),
    [
        ([], [PreferenceProgressBar], 2, 1),
        (["+trainer.enable_progress_bar=false"], [], 2, 1),
        ([TQDM], [TQDMProgressBar], 2, 1),
        ([TQDM, "+trainer.enable_progress_bar=false"], [], 2, 1),
        (["callbacks.progress_bar=null", TQDM], [TQDMProgressBar], 2, 1),
        (["+trainer.enable_checkpointing=false"], [PreferenceProgressBar], 0, 1),
        (["logger=none"], [PreferenceProgressBar], 2, 0),
        (["logger.csv=null"], [PreferenceProgressBar], 2, 0),
        (["+trainer.barebones=true"], [], 0, 0),
    ],
)
def test_what_the_user_means(tmp_path, overrides, bars, checkpoints, loggers):
    trainer = made(tmp_path, *overrides)
    assert [type(one) for one in callbacks_of(trainer) if isinstance(one, ProgressBar)] == bars
    assert sum(isinstance(one, Checkpoint) for one in callbacks_of(trainer)) == checkpoints
    assert len(trainer.loggers) == loggers


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.val_check_interval=0.5"], "counts micro-batches; set trainer.val_check_steps, in optimizer steps"),
        (["+trainer.check_val_every_n_epoch=2"], "counts epochs; set trainer.val_check_steps"),
        (["+trainer.overfit_batches=1"], "trainer.overfit_batches replaces the sampler"),
        (["+trainer.accumulate_grad_batches=2"], "is derived from data.pairs_per_step and data.batch_size; set those"),
        (["+trainer.logger=true"], "choose logger=csv"),
        (["+trainer.callbacks=[]"], r"add one with \+callbacks.NAME._target_=\.\.\."),
        (["trainer.strategy=ddp_spawn", "trainer.devices=2"], "whose processes end with fit"),
        (["trainer.val_check_steps=0"], "trainer.val_check_steps=0: every_n_steps must be an integer of at least 1"),
    ],
)
def test_a_setting_that_is_derived_is_rejected_with_the_one_that_counts(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        made(tmp_path, *overrides)


def test_fast_dev_run_counts_optimizer_steps(tmp_path):
    trainer = made(tmp_path, "+trainer.fast_dev_run=2", "data.batch_size=32")
    assert (trainer.max_steps, trainer.limit_train_batches) == (2, 8)
