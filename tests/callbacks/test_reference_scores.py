import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from peft import LoraConfig, get_peft_model

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks import LastCheckpoint
from lightning_dpo.losses import DPO, LDDPO, Hinge
from lightning_dpo.models.lora import LoRA
from lightning_dpo.models.reference import FrozenModel, NotHeld
from lightning_dpo.models.reference_cache import ReferenceCache
from lightning_dpo.models.reference_factories import AdapterOff, AnotherModel, Auto, Frozen, ReferenceFactory
from tests.support.models import make_llama
from tests.support.training import sgd, trainer_for


class Losses(lightning.Callback):
    def __init__(self) -> None:
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.found.append(float(outputs["loss"]))


def fit(
    folder, pairs, tokenizer, reference, loss=None, policy=None, adapter=None, precision=None, data=None, **options
):
    """A run of two epochs: its losses and metrics."""
    settings = {"batch_size": 6, "val_fraction": 0.2, "layout": "padded"} | (data or {})
    losses = Losses()
    trainer = trainer_for(folder, **{"max_epochs": 2, "precision": precision, "callbacks": [losses]} | options)
    torch.manual_seed(0)
    module = DPOModule(policy or make_llama(), loss or DPO(0.3), reference, adapter, optimizer=sgd)
    trainer.fit(module, PreferenceDataModule(str(pairs), tokenizer=tokenizer, **settings))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return module, losses.found, metrics


@pytest.mark.parametrize(
    ("loss", "between", "layout"),
    [
        (DPO(0.3), "device", "padded"), (DPO(0.3), "none", "shared"), (Hinge(0.3), "cpu", "shared"),
        (LDDPO(DPO(0.3), alpha=0.5), "none", "padded"),
    ],
)  # fmt: skip
def test_losses_and_metrics_are_those_of_a_live_reference(tmp_path, pairs_file, tokenizer, loss, between, layout):
    data = {"layout": layout}
    cached = Auto(cache_dir=str(tmp_path), between=between)
    module, found, metrics = fit(tmp_path, pairs_file, tokenizer, cached, loss, data=data)
    _, wanted, expected = fit(tmp_path, pairs_file, tokenizer, Auto(cache="off"), loss, data=data)
    assert found == pytest.approx(wanted, abs=1e-4)
    assert metrics == pytest.approx(expected, abs=1e-3)
    assert isinstance(module.reference, NotHeld if between == "none" else FrozenModel)


def test_with_equal_batches_the_losses_are_equal_to_the_bit(tmp_path, pairs_file, tokenizer):
    """All pairs in one batch: of 19 pairs, in the order of training or of their lengths, each row is its own."""
    whole = {"batch_size": 19}
    _, found, _ = fit(tmp_path, pairs_file, tokenizer, Auto(cache_dir=str(tmp_path)), data=whole)
    _, wanted, _ = fit(tmp_path, pairs_file, tokenizer, Auto(cache="off"), data=whole)
    assert found == wanted


def test_the_first_run_computes_each_completion_once_and_the_second_none(tmp_path, pairs_file, tokenizer, monkeypatch):
    """Counted where completions enter the reference: for the cache, and in every batch without it."""
    entered: list[int] = []

    def counted(function):
        def counting(model, batch, *options):
            entered.append(len(batch.completion_lengths))
            return function(model, batch, *options)

        return counting

    for name in ("callbacks.reference_passes.token_logps", "models.reference.completion_logps"):
        module, _, function = f"lightning_dpo.{name}".rpartition(".")
        monkeypatch.setattr(f"{module}.{function}", counted(getattr(importlib.import_module(module), function)))

    def completions(reference=None, **options) -> int:
        entered.clear()
        reference = reference or Auto(cache_dir=str(tmp_path / "cache"), recheck=0)
        fit(tmp_path, pairs_file, tokenizer, reference, **options)
        return sum(entered)

    assert completions(Auto(cache="off")) == 2 * 48
    assert completions() == 48
    assert completions() == 0
    assert completions(loss=Hinge(0.5), data={"seed": 5, "batch_size": 3}) == 0
    assert completions(max_steps=2) == 0


CHANGES = {
    "weights": {"policy": lambda: make_llama(seed=1)},
    "a field of the config": {"policy": lambda: make_llama(rms_norm_eps=1e-3)},
    "rope": {"policy": lambda: make_llama(rope_parameters={"rope_theta": 500.0, "rope_type": "default"})},
    "attention": {"policy": lambda: make_llama(attn_implementation="eager")},
    "precision": {"precision": "bf16-mixed"},
    "dtype": {"policy": lambda: make_llama().bfloat16()},
    "another model": {"reference": lambda folder: AnotherModel(str(folder))},
    "an adapter of the reference": {
        "policy": lambda: get_peft_model(make_llama(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    },
}
SAME = {
    "beta": {"loss": DPO(0.1)},
    "loss": {"loss": Hinge(0.3)},
    "batch size": {"data": {"batch_size": 2}},
    "layout": {"data": {"layout": "shared"}},
    "subset": {"data": {"val_fraction": 0.4}},
    "rank of an adapter": {"adapter": LoRA(r=2)},
    "another rank": {"adapter": LoRA(r=8)},
    "kind of reference": {"adapter": LoRA(r=2), "reference": lambda folder: AdapterOff()},
    "a copy": {"reference": lambda folder: Frozen()},
}


def validate(folder, pairs, tokenizer, reference, policy=None, loss=None, adapter=None, precision=None, data=None):
    settings = {"batch_size": 6, "val_fraction": 0.2, "layout": "padded"} | (data or {})
    module = DPOModule(policy or make_llama(), loss or DPO(0.3), reference, adapter)
    data = PreferenceDataModule(str(pairs), tokenizer=tokenizer, **settings)
    trainer_for(folder, precision=precision).validate(module, data, verbose=False)


@pytest.mark.parametrize(("change", "misses"), [*((one, True) for one in CHANGES), *((one, False) for one in SAME)])
def test_what_the_log_probs_depend_on_is_their_address(tmp_path, pairs_file, tokenizer, monkeypatch, change, misses):
    cache, options = str(tmp_path / "cache"), dict((CHANGES | SAME)[change])
    validate(tmp_path, pairs_file, tokenizer, Auto(cache_dir=cache), data={"val_fraction": 0.9})
    added, add = [], ReferenceCache.add
    monkeypatch.setattr(ReferenceCache, "add", lambda self, *shard: (added.append(self), add(self, *shard)))
    make_llama(seed=1).save_pretrained(tmp_path / "model")
    reference = options.pop("reference", lambda folder: Auto())(tmp_path / "model")
    policy = options.pop("policy", make_llama)()
    validate(tmp_path, pairs_file, tokenizer, replace(reference, cache_dir=cache), policy, **options)
    assert bool(added) == misses


def test_a_larger_part_of_the_data_computes_what_is_new(tmp_path, pairs_file, tokenizer):
    def shards(**options) -> list[int]:
        fit(tmp_path, pairs_file, tokenizer, Auto(cache_dir=str(tmp_path / "cache")), max_epochs=1, **options)
        return sorted(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors"))

    few, more = shards(data={"max_pairs": 12}), shards()
    assert len(few) == 1
    assert len(more) == 2
    assert len(shards()) == 2


def test_a_cache_of_another_model_is_an_error_with_both_numbers(tmp_path, pairs_file, tokenizer):
    fit(tmp_path, pairs_file, tokenizer, Auto(cache_dir=str(tmp_path / "cache")), max_epochs=1)
    (folder,) = (tmp_path / "cache").iterdir()
    fit(
        tmp_path,
        pairs_file,
        tokenizer,
        Auto(cache_dir=str(tmp_path / "other")),
        policy=make_llama(seed=1),
        max_epochs=1,
    )
    (other,) = (tmp_path / "other").glob("*/*.safetensors")
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    shutil.copy(other, folder)
    message = r"has a log-prob of -\d+\.\d+ nats for an answer of \d+ tokens, and the reference now computes -\d"
    with pytest.raises(UserError, match=message):
        fit(tmp_path, pairs_file, tokenizer, Auto(cache_dir=str(tmp_path / "cache")), max_epochs=1)


def test_a_run_that_resumes_scores_with_the_starting_weights(tmp_path, pairs_file, tokenizer):
    """Also if the cache has been deleted: they are computed before the checkpoint is loaded."""

    def run(folder: Path, cache: Path, **options):
        reference = Auto(cache_dir=str(cache), between="none")
        return fit(tmp_path, pairs_file, tokenizer, reference, callbacks=[LastCheckpoint(str(folder))], **options)[0]

    straight = run(tmp_path / "a", tmp_path / "cache", max_steps=6)
    run(tmp_path / "b", tmp_path / "cache", max_steps=3)
    shutil.rmtree(tmp_path / "cache")
    module = DPOModule(make_llama(), DPO(0.3), Auto(cache_dir=str(tmp_path / "new"), between="none"), optimizer=sgd)
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=6, val_fraction=0.2, layout="padded")
    trainer = trainer_for(tmp_path, max_epochs=2, max_steps=6)
    trainer.fit(module, data, ckpt_path=str(tmp_path / "b/last.ckpt"), weights_only=True)
    vectors = [torch.nn.utils.parameters_to_vector(one.policy.parameters()) for one in (straight, module)]
    torch.testing.assert_close(*vectors, rtol=0, atol=1e-5)


def test_new_pairs_without_weights_of_the_reference_are_an_error(tmp_path, pairs_file, tokenizer):
    module, *_ = fit(tmp_path, pairs_file, tokenizer, Auto(cache_dir=str(tmp_path / "cache"), between="none"))
    other = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, val_fraction=0.5, seed=8)
    other.setup("validate")
    with pytest.raises(UserError, match=r"the reference is not in memory \(reference.between=none\)"):
        trainer_for(tmp_path).validate(module, other.val_dataloader(), verbose=False)


def test_float64_is_not_cached(tmp_path, pairs_file, tokenizer, monkeypatch):
    monkeypatch.setattr(ReferenceCache, "add", None)
    module, *_ = fit(tmp_path, pairs_file, tokenizer, Auto(), precision="64-true")
    assert module.policy.dtype == torch.float64


@pytest.mark.parametrize("option", [{"cache_dir": "cache"}, {"between": "cpu"}])
def test_with_float64_options_of_the_cache_have_no_effect(tmp_path, pairs_file, tokenizer, option):
    ((name, value),) = option.items()
    with pytest.raises(UserError, match=f"reference.{name}={value} has no effect with trainer.precision=64-true"):
        fit(tmp_path, pairs_file, tokenizer, Auto(**option), precision="64-true")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "off", "between": "cpu"}, "between=cpu needs cache=auto"),
        ({"cache": "off", "cache_dir": "x"}, "cache_dir has no effect with cache=off"),
        ({"recheck": -1}, "recheck must be at least 0, got -1"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        Auto(**options)
    assert issubclass(Auto, ReferenceFactory)


def test_with_an_adapter_nothing_is_held_and_where_has_no_effect(tmp_path, pairs_file, tokenizer):
    module, *_ = fit(tmp_path, pairs_file, tokenizer, Auto(cache_dir=str(tmp_path)), adapter=LoRA(r=2), max_epochs=1)
    assert module.reference.model is None
    with pytest.raises(UserError, match=r"reference.between=cpu has no effect: with an adapter"):
        fit(tmp_path, pairs_file, tokenizer, Auto(between="cpu"), adapter=LoRA(r=2))
    with pytest.raises(ValueError, match="between has no effect: the reference uses the weights of the policy"):
        AdapterOff(between="none")
