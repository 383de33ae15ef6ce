import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks import LastCheckpoint, ValidationSchedule
from lightning_dpo.data import PreferenceCollator
from tests.support.models import make_llama
from tests.support.training import sgd, trainer_for


class Validated(lightning.Callback):
    """The optimizer steps that were validated, and the losses."""

    def __init__(self) -> None:
        self.steps, self.losses = [], []

    def on_validation_end(self, trainer, pl_module):
        self.steps.append(trainer.global_step)
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


class Killed(lightning.Callback):
    """Ends the run after some micro-batches."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_start(self, trainer, *_):
        self.batches -= 1
        if self.batches < 0:
            raise RuntimeError("killed")


def run(folder, pairs_file, tokenizer, every=None, callbacks=(), resumed_from=None, **options) -> Validated:
    """Nineteen pairs, two to a micro-batch, six to a step: four steps per epoch, the last with one micro-batch."""
    seen = Validated()
    trainer = trainer_for(
        folder, callbacks=[ValidationSchedule(every), seen, *callbacks], accumulate_grad_batches=3, **options
    )
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=2, val_fraction=0.2)
    trainer.fit(DPOModule(make_llama(), optimizer=sgd), data, ckpt_path=resumed_from, weights_only=True)
    return seen


@pytest.mark.parametrize(
    ("every", "options", "steps"),
    [
        (None, {"max_epochs": 3}, [0, 3, 6, 9, 12]),  # four times in a run, and before it
        (None, {"max_steps": 10, "max_epochs": -1}, [0, 2, 5, 8, 10]),
        (None, {"max_steps": 1}, [0, 1]),
        (5, {"max_epochs": 3}, [0, 5, 10, 12]),  # and after the last step
        (100, {}, [0, 4]),
        (None, {"limit_val_batches": 0}, []),
    ],
)
def test_the_steps_that_are_validated(tmp_path, pairs_file, tokenizer, every, options, steps):
    assert run(tmp_path, pairs_file, tokenizer, every, **options).steps == steps


class StopAt(lightning.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == 6


def test_a_run_without_a_length_is_validated_once_per_epoch(tmp_path, pairs_file, tokenizer):
    assert run(tmp_path, pairs_file, tokenizer, callbacks=[StopAt()], max_epochs=-1).steps == [0, 4, 6]


@pytest.mark.parametrize("batches", [1, 4, 10, 11, 14, 24])
def test_a_resumed_run_validates_at_the_same_steps(tmp_path, pairs_file, tokenizer, batches):
    whole = run(tmp_path / "whole", pairs_file, tokenizer, 2, max_epochs=3)
    last = LastCheckpoint(str(tmp_path), every_n_steps=1)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, pairs_file, tokenizer, 2, [last, Killed(batches)], max_epochs=3)
    saved = tmp_path / "last.ckpt"
    done = torch.load(saved, weights_only=True)["global_step"] if saved.exists() else 0
    resumed = run(tmp_path, pairs_file, tokenizer, 2, max_epochs=3, resumed_from=saved if done else None)
    expected = [(step, loss) for step, loss in zip(whole.steps, whole.losses, strict=True) if step > done or not done]
    assert list(zip(resumed.steps, resumed.losses, strict=True)) == expected


def test_settings_of_lightning_that_would_have_no_effect_are_rejected(tmp_path, pairs_file, tokenizer):
    for options in ({"val_check_interval": 2}, {"check_val_every_n_epoch": 2}):
        with pytest.raises(UserError, match="have no effect with ValidationSchedule"):
            run(tmp_path, pairs_file, tokenizer, **options)
    with pytest.raises(ValueError, match="every_n_steps must be an integer of at least 1, got 0"):
        ValidationSchedule(0)


def test_callbacks_of_lightning_act_after_each_validation(tmp_path, pairs_file, tokenizer):
    saved = ModelCheckpoint(tmp_path / "saved", "{step}", monitor="val/loss", save_top_k=-1)
    run(tmp_path, pairs_file, tokenizer, 2, [saved], max_epochs=2)
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [f"step={n}.ckpt" for n in (2, 4, 6, 8)]
    stop = EarlyStopping("val/loss", patience=1, min_delta=10)
    assert run(tmp_path, pairs_file, tokenizer, 2, [stop], max_epochs=2).steps == [0, 2]


def test_without_validation_data_nothing_is_validated(tmp_path, tokenizer):
    rows = [{"prompt": f"Q{n}:", "chosen": " yes", "rejected": " no"} for n in range(8)]
    loader = DataLoader(rows, batch_size=4, collate_fn=PreferenceCollator(tokenizer))
    trainer = trainer_for(tmp_path, callbacks=[ValidationSchedule()])
    trainer.fit(DPOModule(make_llama(), optimizer=sgd), loader)
    assert trainer.global_step == 2
