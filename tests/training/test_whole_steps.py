"""Whatever limits a run, its optimizer steps are the first ones of the run without the limit."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks import LastCheckpoint
from lightning_dpo.training.whole_steps import check_strategy
from tests.support.models import make_llama
from tests.support.training import sgd, trainer_for


class Weights(lightning.Callback):
    """The weights after each optimizer step, and the number of micro-batches that started."""

    def __init__(self) -> None:
        self.steps, self.batches = {}, 0

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.batches += 1
        self.steps[trainer.global_step] = torch.nn.utils.parameters_to_vector(pl_module.policy.parameters()).clone()


class StopAt(lightning.Callback):
    """Asks to stop after a micro-batch, as `max_time` does."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or batch_idx + 1 == self.batch


def run(folder, pairs_file, tokenizer, *callbacks, data=None, **options) -> Weights:
    """Nineteen pairs in micro-batches of two, three per step: steps of 6, 6, 6 and 1 pairs."""
    seen = Weights()
    data = {"batch_size": 2, "val_fraction": 0.2} | (data or {})
    trainer = trainer_for(folder, callbacks=[seen, *callbacks], **{"accumulate_grad_batches": 3} | options)
    module = DPOModule(make_llama(), optimizer=sgd)
    trainer.fit(module, PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, **data))
    return seen


@pytest.mark.parametrize(
    ("callbacks", "options", "steps"),
    [
        ([], {"limit_train_batches": 6}, 2),
        ([], {"limit_train_batches": 0.6}, 2),  # 6 of 10
        ([], {"limit_train_batches": 100}, 4),
        ([], {"fast_dev_run": 2}, 2),
        ([], {"max_steps": 3}, 3),
        ([StopAt(4)], {}, 2),
        ([StopAt(6)], {}, 2),
    ],
)
def test_a_limited_run_makes_the_same_whole_steps(tmp_path, pairs_file, tokenizer, callbacks, options, steps):
    whole = run(tmp_path, pairs_file, tokenizer)
    limited = run(tmp_path, pairs_file, tokenizer, *callbacks, **options)
    assert max(whole.steps) == 4
    assert max(limited.steps) == steps
    assert limited.batches == min(3 * steps, 10)
    for step in range(1, steps + 1):
        assert torch.equal(limited.steps[step], whole.steps[step])


@pytest.mark.parametrize(
    ("callbacks", "options", "message"),
    [
        ([], {"limit_train_batches": 5}, "ends an epoch within an optimizer step of 3 micro-batches: set it to 3 or 6"),
        ([], {"limit_train_batches": 2}, "=2 ends an epoch within an optimizer step of 3 micro-batches: set it to 3,"),
        ([], {"limit_train_batches": 0.5}, "=0.5 ends an epoch within an optimizer step"),
        ([], {"overfit_batches": 2}, "set data.max_pairs"),
        ([GradientAccumulationScheduler({0: 1, 1: 4})], {"accumulate_grad_batches": 1}, "set data.pairs_per_step"),
    ],
)
def test_what_would_split_a_step_is_rejected(tmp_path, pairs_file, tokenizer, callbacks, options, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, pairs_file, tokenizer, *callbacks, **options)


def test_the_finder_of_batch_sizes_may_not_change_pairs_per_step(tmp_path, pairs_file, tokenizer):
    with pytest.raises(UserError, match="use batch_size='auto'"):
        run(tmp_path, pairs_file, tokenizer, BatchSizeFinder(), data={"pairs_per_step": 6})


@pytest.mark.parametrize("limit_val_batches", [1.0, 0])
def test_a_run_that_ended_within_an_epoch_is_resumed_exactly_or_not_at_all(
    tmp_path, pairs_file, tokenizer, limit_val_batches
):
    """From the callback's checkpoint; one that is written after `fit` lacks the position in the epoch."""

    def fit(resumed_from=None, **options) -> tuple[lightning.Trainer, torch.Tensor]:
        last = LastCheckpoint(str(tmp_path))
        options |= {"limit_val_batches": limit_val_batches, "callbacks": [last], "accumulate_grad_batches": 3}
        data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=2, val_fraction=0.2)
        module, trainer = DPOModule(make_llama(), optimizer=sgd), trainer_for(tmp_path, **options)
        trainer.fit(module, data, ckpt_path=resumed_from, weights_only=True)
        return trainer, torch.nn.utils.parameters_to_vector(module.policy.parameters())

    _, whole = fit(max_steps=7, max_epochs=-1)
    stopped, _ = fit(max_steps=3, max_epochs=-1)
    stopped.save_checkpoint(tmp_path / "afterwards.ckpt")
    (tmp_path / "last.ckpt").rename(tmp_path / "saved.ckpt")
    with pytest.raises(UserError, match="the checkpoint has 3 optimizer steps, which do not end where"):
        fit(tmp_path / "afterwards.ckpt", max_steps=7, max_epochs=-1)
    _, resumed = fit(tmp_path / "saved.ckpt", max_steps=7, max_epochs=-1)
    assert torch.equal(resumed, whole)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_a_strategy_that_loses_the_weights_is_rejected(tmp_path, strategy):
    with pytest.raises(UserError, match=r"ddp_spawn, ddp_fork or ddp_notebook, whose processes end with fit\(\)"):
        check_strategy(trainer_for(tmp_path, strategy=strategy, devices=2))
