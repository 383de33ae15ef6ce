import copy
import math

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks import LastCheckpoint
from lightning_dpo.losses import DPO, SFT, Hinge
from lightning_dpo.models.reference_factories import AnotherModel
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs
from tests.support.training import sgd, trainer_for


def fit(folder, pairs_file, tokenizer, batch_size: int = 6, accumulate: int = 1, loss=None, policy=None, **options):
    module = DPOModule(policy or make_llama(), loss or DPO(0.3), optimizer=sgd)
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=batch_size, val_fraction=0.2)
    trainer = trainer_for(folder, accumulate_grad_batches=accumulate, **options)
    trainer.fit(module, data)
    return trainer, module


def parameters_of(module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(module.policy.parameters()).detach()


@pytest.mark.parametrize("loss", [DPO(0.3), SFT()])
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(tmp_path, pairs_file, tokenizer, loss):
    """Nineteen training pairs in steps of six: the last step has one pair and must weigh as one pair."""
    whole, module = fit(tmp_path, pairs_file, tokenizer, 6, 1, loss)
    for batch_size, accumulate in ((1, 6), (2, 3), (3, 2)):
        pieces, other = fit(tmp_path, pairs_file, tokenizer, batch_size, accumulate, loss)
        assert pieces.global_step == whole.global_step == 4
        torch.testing.assert_close(parameters_of(module), parameters_of(other), rtol=1e-3, atol=1e-4)
        for name, value in whole.callback_metrics.items():
            torch.testing.assert_close(value, pieces.callback_metrics[name], rtol=1e-4, atol=1e-4, msg=name)


def test_one_step_by_hand(tmp_path, pairs_file, tokenizer):
    """SGD on the mean DPO loss of all pairs, written out: the Trainer must end at the same weights."""
    trainer, module = fit(tmp_path, pairs_file, tokenizer, batch_size=20, max_epochs=2)
    pairs = trainer.datamodule.train_pairs
    policy, reference = make_llama(), make_llama()
    for _ in range(2):
        losses = []
        for pair in pairs:
            margin = 0.0
            for sign, name in ((1, "chosen_ids"), (-1, "rejected_ids")):
                ids = torch.tensor([pair["prompt_ids"] + pair[name]])
                for weight, model in ((1, policy), (-1, reference)):
                    logps = model(ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])
                    margin = margin + sign * weight * logps[0, len(pair["prompt_ids"]) - 1 :].sum()
            losses.append(-torch.nn.functional.logsigmoid(0.3 * margin))
        policy.zero_grad()
        torch.stack(losses).mean().backward()
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter -= 0.5 * parameter.grad
    torch.testing.assert_close(
        parameters_of(module), torch.nn.utils.parameters_to_vector(policy.parameters()), rtol=1e-3, atol=1e-4
    )


def test_first_step_is_at_ln_2_with_margin_0(tmp_path, pairs_file, tokenizer):
    trainer, _ = fit(tmp_path, pairs_file, tokenizer, logger=CSVLogger(tmp_path), max_steps=1, log_every_n_steps=1)
    first = trainer.logger.experiment.metrics or trainer.logged_metrics
    first = first[0] if isinstance(first, list) else first
    assert first["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["train/rewards/margins"] == 0
    assert first["train/rewards/accuracies"] == 0.5
    assert first["train/rewards/ties"] == 1


def test_names_that_dashboards_know(tmp_path, pairs_file, tokenizer):
    trainer, _ = fit(tmp_path, pairs_file, tokenizer)
    both = ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "rewards/ties"]
    both += [f"{kind}/{side}" for kind in ("logps", "logratios", "length") for side in ("chosen", "rejected")]
    names = {f"{stage}/{name}" for stage in ("train", "val") for name in ["loss", "gradient_weight", *both]}
    assert set(trainer.callback_metrics) == names | {"train/grad_norm", "train/lr", "val/pairs"}


def test_the_reference_is_in_no_checkpoint_and_in_no_optimizer(tmp_path, pairs_file, tokenizer):
    trainer, module = fit(tmp_path, pairs_file, tokenizer)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {f"policy.{name}" for name in module.policy.state_dict()}
    trained = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in module.policy.parameters()}
    assert not module.reference.model.training
    start = torch.nn.utils.parameters_to_vector(make_llama().parameters())
    assert torch.equal(torch.nn.utils.parameters_to_vector(module.reference.model.parameters()), start)
    assert not torch.equal(parameters_of(module), start)


def test_the_reference_moves_with_the_module(llama):
    module = DPOModule(llama)
    module.configure_model()
    module.to(torch.float64)
    assert module.reference.model.dtype == torch.float64


def test_configure_model_is_idempotent(tmp_path, pairs_file, tokenizer):
    trainer, module = fit(tmp_path, pairs_file, tokenizer)
    policy, reference = module.policy, module.reference
    trainer.validate(module, trainer.datamodule, verbose=False)
    assert (module.policy, module.reference) == (policy, reference)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_run_that_stops_and_resumes_ends_where_one_that_does_not(tmp_path, pairs_file, tokenizer, stop, workers):
    """Four steps an epoch, two epochs, accumulation 2: stopped inside an epoch, at its end, and in the next."""

    def parts():
        module = DPOModule(make_llama(), DPO(0.3), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
        data = PreferenceDataModule(
            str(pairs_file), tokenizer=tokenizer, batch_size=3, val_fraction=0.2, num_workers=workers
        )
        return module, data

    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "limit_val_batches": 0}
    straight, _ = parts_of = parts()
    trainer_for(tmp_path, **options).fit(*parts_of)

    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == stop:
                trainer.save_checkpoint(tmp_path / "stop.ckpt", weights_only=False)
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        trainer_for(tmp_path, callbacks=[Stop()], **options).fit(*parts())
    module, data = parts()
    trainer_for(tmp_path, **options).fit(module, data, ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert torch.equal(parameters_of(straight), parameters_of(module))


def test_load_from_checkpoint(tmp_path, pairs_file, tokenizer):
    _, module = fit(tmp_path, pairs_file, tokenizer, callbacks=[LastCheckpoint(str(tmp_path))])
    loaded = DPOModule.load_from_checkpoint(tmp_path / "last.ckpt", policy=make_llama(), loss=DPO(0.3))
    assert torch.equal(parameters_of(loaded), parameters_of(module))
    other = DPOModule.load_from_checkpoint(tmp_path / "last.ckpt", policy=make_llama())  # the weights are wanted
    assert torch.equal(parameters_of(other), parameters_of(module))
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=6, val_fraction=0.2)
    with pytest.raises(UserError, match=r"was trained with loss DPO\(beta=0.3, .*instead of Hinge"):
        trainer_for(tmp_path, max_epochs=2).fit(
            DPOModule(make_llama(), Hinge(0.3)), data, ckpt_path=tmp_path / "last.ckpt", weights_only=True
        )


def test_validation_counts_every_pair_once(tmp_path, pairs_file, tokenizer):
    _, module = fit(tmp_path, pairs_file, tokenizer, max_epochs=2)
    results = []
    for batch_size in (1, 2, 5):
        data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=batch_size, val_fraction=0.2)
        results.append(trainer_for(tmp_path).validate(module, data, verbose=False)[0])
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)


def test_a_policy_by_folder(tmp_path, pairs_file, model_folder):
    module = DPOModule(str(model_folder))
    data = PreferenceDataModule(str(pairs_file), tokenizer=str(model_folder), val_fraction=0.2)
    trainer_for(tmp_path, max_steps=1).fit(module, data)
    assert module.policy.dtype == torch.float32


def test_another_model_as_reference_need_not_start_equal(tmp_path, pairs_file, tokenizer, model_folder):
    module = DPOModule(make_llama(seed=7), reference=AnotherModel(str(model_folder)))
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, val_fraction=0.2)
    trainer = trainer_for(tmp_path, max_steps=1)
    trainer.fit(module, data)
    assert trainer.callback_metrics["train/rewards/ties"] == 0


def test_sft_computes_no_rejected_answer(tmp_path, pairs_file, tokenizer):
    module = DPOModule(make_llama(), SFT())
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, val_fraction=0.2, chosen_only=True)
    trainer = trainer_for(tmp_path)
    trainer.fit(module, data)
    assert module.reference is None
    assert {"train/loss", "train/logps/chosen", "val/loss"} <= set(trainer.callback_metrics)


def test_a_loss_on_pairs_rejects_chosen_answers_only(llama):
    module = DPOModule(llama)
    module.configure_model()
    with pytest.raises(UserError, match="needs rejected completions: create the data module with chosen_only=False"):
        module(padded_batch(random_pairs(2), chosen_only=True))


def test_a_nan_stops_before_the_update_and_names_the_rows(tmp_path, pairs_file, tokenizer):
    class Break(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                self.before = copy.deepcopy(pl_module.policy.state_dict())
                self.rows = batch.pair_index.tolist()
                pl_module.policy.model.norm.weight.register_hook(lambda gradient: gradient * float("nan"))

    breaking = Break()
    module = DPOModule(make_llama(), DPO(0.3), optimizer=sgd)
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=6, val_fraction=0.2)
    with pytest.raises(UserError, match="is not finite, so the update was not applied") as error:
        trainer_for(tmp_path, callbacks=[breaking]).fit(module, data)
    assert ", ".join(data.place(row) for row in breaking.rows) in str(error.value)
    assert all(torch.equal(value, breaking.before[name]) for name, value in module.policy.state_dict().items())


def test_a_plain_trainer_must_accumulate_what_a_step_needs(tmp_path, pairs_file, tokenizer):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=2, pairs_per_step=6, val_fraction=0.2)
    with pytest.raises(UserError, match=r"needs Trainer\(accumulate_grad_batches=3\), got 1"):
        trainer_for(tmp_path).fit(DPOModule(make_llama()), data)


def test_metrics_of_each_source_are_those_of_its_pairs(tmp_path, tokenizer, model_folder):
    """Two sources in one validation, in batches that hold both; each compared with a run over it alone."""

    def made(words: str, count: int):
        rows = [{"prompt": f"{words}{n}:", "chosen": f" {words}" * (n + 1), "rejected": " no"} for n in range(count)]
        return lambda split: rows

    sources = {"good": made("good", 5), "film": made("film", 4)}

    def validated(**options):
        data = PreferenceDataModule(tokenizer=tokenizer, batch_size=2, drop_seen_prompts=False, **options)
        module = DPOModule(make_llama(seed=1), reference=AnotherModel(str(model_folder)))
        return trainer_for(tmp_path).validate(module, data, verbose=False)[0]

    both = validated(rows=sources)
    for name, alone in sources.items():
        expected = validated(rows=alone)
        for metric, value in expected.items():
            assert both[metric.replace("val/", f"val/{name}/")] == pytest.approx(value, abs=1e-6), metric
    assert not [name for name in validated(rows=sources["good"]) if "good" in name]
