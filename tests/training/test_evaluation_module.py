"""`validate`, `test` and `predict` use the weights and change none."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.tuner import Tuner

from lightning_dpo import DPOModule, LoRA, PreferenceDataModule, UserError
from lightning_dpo.losses import DPO, SFT
from tests.support.models import make_llama
from tests.support.training import sgd, trainer_for


def data_of(pairs_file, tokenizer, **options):
    return PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=3, val_fraction=0.3, **options)


def weights(module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(module.policy.parameters()).detach().clone()


@pytest.fixture
def trained(tmp_path, pairs_file, tokenizer):
    """A checkpoint, the weights in it, and its validation metrics."""
    trainer, module = trainer_for(tmp_path, max_epochs=2), DPOModule(make_llama(), DPO(0.3), optimizer=sgd)
    trainer.fit(module, data_of(pairs_file, tokenizer))
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    return tmp_path / "trained.ckpt", weights(module), dict(trainer.callback_metrics)


def test_a_checkpoint_is_validated_tested_and_used_for_predictions(tmp_path, pairs_file, tokenizer, trained):
    path, expected, metrics = trained
    for name in ("validate", "test", "predict"):
        module, data = DPOModule(make_llama(), DPO(0.3)), data_of(pairs_file, tokenizer)
        result = getattr(trainer_for(tmp_path), name)(module, data, ckpt_path=path, weights_only=True)
        assert torch.equal(weights(module), expected)
        if name == "predict":
            margins = torch.cat([batch.chosen - batch.rejected for batch in result])
            assert float(margins.mean()) == pytest.approx(float(metrics["val/rewards/margins"]), rel=1e-5)
            rows = torch.cat([batch.pair_index for batch in result]).tolist()
            assert rows == list(range(len(data.val_pairs)))
        else:
            prefix = "val" if name == "validate" else "test"
            for metric in ("loss", "rewards/accuracies", "logps/chosen", "pairs"):
                assert result[0][f"{prefix}/{metric}"] == pytest.approx(float(metrics[f"val/{metric}"]))


def test_a_loss_without_rewards_predicts_none(tmp_path, pairs_file, tokenizer):
    with pytest.raises(UserError, match=r"predict\(\) returns rewards, and SFT\(\) does not define them"):
        trainer_for(tmp_path).predict(DPOModule(make_llama(), SFT()), data_of(pairs_file, tokenizer, chosen_only=True))


@pytest.mark.parametrize("adapter", [None, LoRA(r=2)])
def test_a_module_is_trained_again_by_a_new_trainer(tmp_path, pairs_file, tokenizer, adapter):
    module = DPOModule(make_llama(), adapter=adapter, optimizer=sgd)
    trainer_for(tmp_path).fit(module, data_of(pairs_file, tokenizer))
    first, reference = weights(module), module.reference
    trainer_for(tmp_path).fit(module, data_of(pairs_file, tokenizer, seed=1))
    assert not torch.equal(weights(module), first)
    assert module.reference is reference


def test_a_loaded_module_is_trained_further(tmp_path, pairs_file, tokenizer, trained):
    module = DPOModule.load_from_checkpoint(trained[0], policy=make_llama(), loss=DPO(0.3), weights_only=True)
    assert torch.equal(weights(module), trained[1])
    trainer_for(tmp_path).fit(module, data_of(pairs_file, tokenizer))
    assert not torch.equal(weights(module), trained[1])


def test_tuners_leave_the_weights_as_they_were(tmp_path, pairs_file, tokenizer):
    module = DPOModule(make_llama(), optimizer=sgd)
    module.configure_model()
    before = weights(module)
    trainer, data = trainer_for(tmp_path, max_epochs=3), data_of(pairs_file, tokenizer)
    Tuner(trainer).lr_find(module, data, num_training=5, update_attr=False)
    assert torch.equal(weights(module), before)
    assert Tuner(trainer).scale_batch_size(module, data, steps_per_trial=1, max_trials=1) == data.batch_size
    assert torch.equal(weights(module), before)
    trainer.fit(module, data)
    assert not torch.equal(weights(module), before)


def test_a_compiled_module_trains_to_the_same_weights(tmp_path, pairs_file, tokenizer):
    modules = [DPOModule(make_llama(), optimizer=sgd) for _ in range(2)]
    compiled = torch.compile(modules[1], backend="eager")  # generating code would take minutes
    for module in (modules[0], compiled):
        trainer_for(tmp_path, max_steps=2).fit(module, data_of(pairs_file, tokenizer))
    torch.testing.assert_close(weights(modules[1]), weights(modules[0]), rtol=1e-4, atol=1e-5)


def test_callbacks_of_lightning(tmp_path, pairs_file, tokenizer):
    saved = ModelCheckpoint(monitor="val/loss", mode="min", dirpath=tmp_path / "saved", save_last=True)
    ends = []
    for callback in (EarlyStopping("val/loss"), saved, EMAWeightAveraging(decay=0.5), StochasticWeightAveraging(0.1)):
        trainer, module = trainer_for(tmp_path, callbacks=[callback], max_epochs=2), DPOModule(make_llama())
        module.configure_model()  # StochasticWeightAveraging copies the policy before `fit` would open it
        trainer.fit(module, data_of(pairs_file, tokenizer))
        assert trainer.global_step == 12
        ends.append(weights(module))
    assert torch.equal(ends[0], ends[1])
    assert not any(torch.equal(end, ends[0]) for end in ends[2:])  # they average
    more = trainer_for(tmp_path, max_epochs=3)
    module, data = DPOModule(make_llama()), data_of(pairs_file, tokenizer)
    more.fit(module, data, ckpt_path=tmp_path / "saved" / "last.ckpt", weights_only=True)
    assert more.global_step == 18


def test_averaging_of_a_policy_that_is_not_open_is_rejected(tmp_path, pairs_file, tokenizer):
    trainer = trainer_for(tmp_path, callbacks=[StochasticWeightAveraging(0.1)])
    with pytest.raises(UserError, match=r"call module.configure_model\(\) before fit\(\)"):
        trainer.fit(DPOModule(make_llama()), data_of(pairs_file, tokenizer))


def test_an_optimizer_cannot_be_created_before_the_policy(llama):
    with pytest.raises(UserError, match=r"pass optimizer= to DPOModule, with LightningCLI --model.optimizer"):
        torch.optim.SGD(DPOModule(llama).parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": torch.nn.Linear(2, 2)}, "policy=Linear must be a model of transformers"),
        ({"policy": 3}, "policy=int must be a hub id, a folder, a model of transformers, or a function"),
        ({"policy": torch.compile(make_llama())}, r"compile the LightningModule: torch.compile\(DPOModule"),
        ({"loss": lambda pairs: 0}, "must be an instance of a dataclass that derives from PreferenceLossFunction"),
        ({"adapter": {"r": 8}}, r"adapter=dict must be an adapter of lightning_dpo, such as LoRA\(r=16\)"),
        ({"reference": make_llama()}, "reference=LlamaForCausalLM must be a reference of lightning_dpo, such as Auto"),
        ({"optimizer": "adam"}, "optimizer='adam' must be a function that creates it, such as partial"),
        ({"scheduler": 3}, "scheduler=3 must be a function that creates it"),
        ({"resume_allow": 3}, "resume.allow=3 must be a list"),
    ],
)
def test_arguments_of_other_kinds_are_rejected_at_construction(arguments, message):
    with pytest.raises(UserError, match=message):
        DPOModule(**{"policy": make_llama()} | arguments)
