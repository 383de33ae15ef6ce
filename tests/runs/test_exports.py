import pytest

from lightning_dpo import UserError
from lightning_dpo.models.lora import LoRA
from lightning_dpo.runs import exports
from lightning_dpo.runs.exports import command, export_run, model_card, record
from tests.support.compose import composed
from tests.support.models import make_llama

FACTS = {"weights": {"starting weights (sha256)": "12ab"}, "data": {"training pairs": "10"}, "tokenizer": {}}


def test_a_model_card_says_what_was_done(tmp_path):
    config = composed(tmp_path, "model=llama", "data=hh", "loss.beta=0.3")
    card = model_card(config, {"val/loss": 0.5, "train/loss": 9.0}, {"train": 10, "val": 2}, 7, "Llama", FACTS)
    assert "Trained from meta-llama/Llama-3.2-1B" in card
    assert "base_model: meta-llama/Llama-3.2-1B" in card
    assert "library_name: transformers" in card
    assert "The weights are those of optimizer step 7" in card
    assert "- train: 10" in card
    assert "| val/loss | 0.5000 |" in card
    assert "train/loss" not in card
    assert "beta: 0.3" in card
    assert "- starting weights (sha256): 12ab" in card


def test_control_characters_and_html_do_not_reach_a_card(tmp_path):
    config = composed(tmp_path, "model=llama", "data=hh")
    config.model.name = "org/\x1b[2Jname"
    card = model_card(config, {"val/<script>\x1b/loss": 0.5}, {"train_of_a\n# heading": 1}, 1, "Llama", FACTS)
    assert "\x1b" not in card
    assert "<script>" not in card
    assert "\n# heading" not in card


def test_values_of_the_environment_do_not_reach_an_export(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "SENTINEL")
    config = composed(tmp_path, "model=llama", "data=hh", "model.name=${oc.env:SECRET}", "loss.beta=${oc.env:SECRET}")
    assert "SENTINEL" not in str(record(config, FACTS)) + model_card(config, {}, {}, 1, "Llama", FACTS)


def test_an_adapters_card_is_for_peft_and_a_folder_is_not_a_link(tmp_path):
    config = composed(tmp_path, "model=llama", "adapter=lora", "data=hh", f"model.name={tmp_path}")
    card = model_card(config, {}, {}, 1, "Llama", FACTS)
    assert "library_name: peft" in card
    assert "base_model:" not in card


def test_the_record_names_base_and_loss_and_a_model_made_in_code_has_no_name(tmp_path):
    config = composed(tmp_path, "model=llama", "data=hh", "loss.beta=0.3")
    assert record(config, FACTS) == {
        "format": 2,
        "trained_with": FACTS,
        "base_model": "meta-llama/Llama-3.2-1B",
        "quantization": None,
        "loss": {"_target_": "lightning_dpo.losses.DPO", "beta": 0.3, "label_smoothing": 0.0},
        "data": {"path": None, "val_path": None, "val_fraction": 0.05, "max_pairs": None, "seed": 0},
    }
    assert record(composed(tmp_path), FACTS)["base_model"] is None
    assert record(composed(tmp_path, "model=llama", "data=hh", "model.pretrained=false"), FACTS)["base_model"] is None


def test_a_merged_export_that_is_another_model_is_removed_and_rejected(tmp_path, tokenizer, monkeypatch):
    """As peft merged an adapter of a tied LM head: into the embedding as well."""
    policy = LoRA(r=4)(make_llama())
    policy.name_or_path = ""
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    monkeypatch.setattr(exports, "merged", lambda policy: policy.get_base_model())
    with pytest.raises(UserError, match=r"the merged model differs .*, so it is not exported: .* nats"):
        export_run(policy, tokenizer, tmp_path, "card", {}, merge=True)
    assert not list(tmp_path.iterdir())


def test_the_command_is_the_one_that_the_run_noted(tmp_path):
    assert command(tmp_path) == "python -m lightning_dpo.train"
    (tmp_path / "command.txt").write_text("python -m lightning_dpo.train loss.beta=0.2 data=hh\n")
    assert command(tmp_path) == "python -m lightning_dpo.train loss.beta=0.2 data=hh"
