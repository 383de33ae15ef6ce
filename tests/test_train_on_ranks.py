"""Whole runs from a config on two ranks: what they leave is what one process leaves."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.train import train
from tests.support.compose import composed
from tests.support.pairs import padded_batch, random_pairs
from tests.support.ranks import on_ranks
from tests.support.training import small


def _train(folder, overrides):
    train(composed(folder, *overrides))


def on(devices: int, folder, *overrides: str) -> dict:
    folder.mkdir()
    on_ranks(devices, _train, folder, [*overrides, f"trainer.devices={devices}"])
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_run_on_two_ranks_leaves_what_one_leaves(tmp_path, model_folder, hh_file, strategy, adapter):
    """Metrics, val/kl and the export: opened by plain transformers, equal to one process's."""
    options = ["model=llama", "data=hh", "logger=csv", f"adapter={adapter}", *small(model_folder, hh_file)]
    options += ["callbacks.samples.greedy=true", "callbacks.samples.max_new_tokens=4", "callbacks.samples.answers=3"]
    options += ["adapter.merge=true"] if adapter == "lora" else []
    alone = on(1, tmp_path / "alone", *options)
    ranks = on(2, tmp_path / "ranks", f"strategy={strategy}", *options)
    assert alone.keys() == ranks.keys()
    assert alone["warnings"] == ranks["warnings"]
    of_the_machine = {
        "train/pairs_per_second",
        "train/tokens_per_second",
        "train/measured_rate_share",
        "train/peak_memory_gb",
    }
    for name in alone.keys() - {"seconds", "data", "architecture", "warnings"} - of_the_machine:
        assert ranks[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-5), name
    assert (ranks["data"], ranks["architecture"]) == (alone["data"], alone["architecture"])
    batch = padded_batch(random_pairs(4))
    exports = [tmp_path / name / "export" for name in ("alone", "ranks")]
    one, other = (completion_logps(opened(path, model_folder), batch).sums for path in exports)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    if adapter == "lora":
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "ranks" / "export_merged")
        torch.testing.assert_close(completion_logps(merged, batch).sums, other, rtol=0, atol=1e-4)
        names = torch.load(tmp_path / "ranks" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert names
        assert all("lora" in name for name in names)
    else:
        config = json.loads((exports[1] / "config.json").read_text())
        assert config["architectures"] == ["LlamaForCausalLM"]


def opened(export, model_folder):
    if (export / "adapter_config.json").exists():
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), export)
    return AutoModelForCausalLM.from_pretrained(export)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_samples_and_the_closed_form_on_two_ranks(tmp_path, strategy):
    """Ranks draw answers of unequal lengths, and nobody waits for anybody for ever."""
    options = ["model.teaching_steps=20", "data.rows.pairs=512", "data.rows.val_pairs=64", "logger=csv"]
    options += ["data.batch_size=64", "trainer.max_epochs=1", "trainer.accelerator=cpu", "callbacks.samples.answers=10"]
    metrics = on(2, tmp_path / "run", f"strategy={strategy}", *options)
    assert metrics["val/kl"] >= 0
    assert 0 <= metrics["closed_form/mass_on_reviews"] <= 1
    # Before the first of four steps, and after each.
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 5 * 10
    assert (tmp_path / "run" / "curves.png").exists()
    # Of each of the first eight prompts.
    lines = (tmp_path / "run" / "log_ratios.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert {"chosen", "rejected", "policy", "reference"} < json.loads(lines[0]).keys()


def _differently(folder, overrides):
    import os

    train(composed(folder, *overrides, f"loss.beta=0.{os.environ['RANK']}1"))


def test_ranks_that_were_started_differently_stop(tmp_path, model_folder, hh_file):
    options = ["model=llama", "data=hh", "logger=csv", "trainer.devices=2", *small(model_folder, hh_file)]
    with pytest.raises(AssertionError) as stopped:
        on_ranks(2, _differently, tmp_path, options)
    # On both, in the same words.
    told = "device 1 was started with other settings than device 0: loss.beta is 0.11 instead of 0.01"
    assert str(stopped.value).count(told) == 2


def _of_another_checkout(folder, overrides):
    import os

    from lightning_dpo.callbacks import same_settings

    whole = same_settings.code
    same_settings.code = lambda: whole() | {"the code of lightning_dpo": os.environ["RANK"]}
    train(composed(folder, *overrides))


def test_ranks_of_two_checkouts_stop(tmp_path, model_folder, hh_file):
    options = ["model=llama", "data=hh", "logger=csv", "trainer.devices=2", *small(model_folder, hh_file)]
    with pytest.raises(
        AssertionError, match="started with other settings than device 0: the code of lightning_dpo is '1' instead of"
    ):
        on_ranks(2, _of_another_checkout, tmp_path, options)


def test_as_many_devices_as_processes(tmp_path, model_folder, hh_file):
    """With fewer, each process would train by itself, all of them in one folder."""
    options = ["model=llama", "data=hh", "logger=csv", *small(model_folder, hh_file)]
    message = "2 processes were started, but trainer.devices=1 and trainer.num_nodes=1 make 1: set both"
    with pytest.raises(AssertionError, match=message):
        on_ranks(2, _train, tmp_path, options)
