"""When and for which policy the layout of batches is chosen."""

import lightning
import pytest
from torch.utils.data import DataLoader

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks import SharedPrefix
from lightning_dpo.training.trainer_attributes import callbacks_of
from tests.support.architectures import make
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs, shares_prompts
from tests.support.training import sgd, trainer_for


def data_of(pairs_file, tokenizer, **options) -> PreferenceDataModule:
    options = {"batch_size": 4, "val_fraction": 0.3, "max_length": 128} | options
    return PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, **options)


def test_making_loaders_runs_no_model(tmp_path, pairs_file, tokenizer):
    """Lightning makes the training loader while it sets up the optimizer, to know how many steps there are."""
    calls = []

    class Module(DPOModule):
        def configure_optimizers(self):
            self.policy.register_forward_hook(lambda *_: calls.append("forward"))
            made = super().configure_optimizers()
            calls.append("loaders made")
            return made

    trainer_for(tmp_path, max_steps=1).fit(Module(make_llama(), optimizer=sgd), data_of(pairs_file, tokenizer))
    assert calls.index("loaders made") < calls.index("forward")


def test_workers_lay_batches_out_as_chosen(tmp_path, pairs_file, tokenizer):
    data = data_of(pairs_file, tokenizer, num_workers=1)
    seen = []

    class Module(DPOModule):
        def training_step(self, batch, batch_idx):
            seen.append(batch.segments is not None)
            return super().training_step(batch, batch_idx)

    trainer_for(tmp_path).fit(Module(make_llama(), optimizer=sgd), data)
    assert len(seen) > 1
    assert all(seen)


def test_data_that_serve_two_policies_in_turn(tmp_path, pairs_file, tokenizer):
    """One policy can share prompts, the other cannot; each gets the layout that it can use, also the second time."""
    data = data_of(pairs_file, tokenizer)
    runs = [(trainer_for(tmp_path), DPOModule(policy)) for policy in (make_llama(), make("falcon"))]
    found = []
    for trainer, module in (*runs, *runs):
        trainer.validate(module, data, verbose=False)
        found.append(shares_prompts(data))
    assert found == [True, False, True, False]


def test_it_is_tried_once_for_a_policy(tmp_path, pairs_file, tokenizer, caplog):
    trainer, module, data = (
        trainer_for(tmp_path),
        DPOModule(make_llama(), optimizer=sgd),
        data_of(pairs_file, tokenizer),
    )
    with caplog.at_level("INFO"):
        trainer.fit(module, data)
        trainer.validate(module, data, verbose=False)
    assert sum("Prompts are shared: each is computed once per forward pass" in line for line in caplog.messages) == 1
    assert sum(isinstance(callback, SharedPrefix) for callback in callbacks_of(trainer)) == 1
    assert "will override existing callbacks" not in caplog.text


def test_a_data_module_of_ones_own_makes_its_batches_itself(tmp_path):
    class Own(lightning.LightningDataModule):
        def train_dataloader(self):
            return DataLoader([padded_batch(random_pairs(3))], batch_size=None)

    trainer = trainer_for(tmp_path)
    trainer.fit(DPOModule(make_llama(), optimizer=sgd), Own())
    assert trainer.global_step == 1


def test_max_tokens_is_checked_for_the_layout_that_is_chosen(tmp_path, pairs_file, tokenizer):
    """Of padded rows, the largest batch has more tokens than of the stream."""
    limits = {}
    for layout in ("padded", "shared"):
        data = data_of(pairs_file, tokenizer, layout=layout)
        data.setup()
        limits[layout], _ = data.largest_batch()
    assert limits["shared"] < limits["padded"]
    data = data_of(pairs_file, tokenizer, max_tokens=limits["shared"])
    trainer_for(tmp_path, max_steps=1).fit(DPOModule(make_llama(), optimizer=sgd), data)
    with pytest.raises(ValueError, match=f"data.max_tokens={limits['shared']}: the longest pair"):
        trainer_for(tmp_path, max_steps=1).fit(DPOModule(make("falcon"), optimizer=sgd), data)


def test_a_data_module_may_wrap_ours(tmp_path, pairs_file, tokenizer):
    class Wrapper(lightning.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = data_of(pairs_file, tokenizer, layout="shared")

        def setup(self, stage):
            self.inner.trainer = self.trainer
            self.inner.setup(stage)

        def train_dataloader(self):
            return self.inner.train_dataloader()

        def val_dataloader(self):
            return self.inner.val_dataloader()

    # Without a number of epochs, Lightning makes the loaders only when training starts.
    for options in ({}, {"max_epochs": -1, "max_steps": 2}):
        data, trainer = Wrapper(), trainer_for(tmp_path, **options)
        trainer.fit(DPOModule(make_llama(), optimizer=sgd), data)
        assert trainer.global_step > 1
        assert shares_prompts(data.inner)


def test_callbacks_of_a_subclass_come_in_addition(tmp_path, pairs_file, tokenizer):
    class Forgetful(DPOModule):
        def configure_callbacks(self):
            return []

    with pytest.raises(UserError, match=r"must include the callbacks of super\(\).configure_callbacks\(\)"):
        trainer_for(tmp_path).fit(Forgetful(make_llama(), optimizer=sgd), data_of(pairs_file, tokenizer))
