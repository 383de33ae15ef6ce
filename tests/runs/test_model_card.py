import re
import shlex

import pytest
from huggingface_hub import ModelCard

from lightning_dpo.models.lora import LoRA
from lightning_dpo.runs.exports import export, merged, record
from lightning_dpo.runs.model_card import model_card
from tests.support.chat import chat_tokenizer
from tests.support.compose import composed
from tests.support.models import VOCABULARY, make_llama

FACTS = {"weights": {"starting weights (sha256)": "12ab"}, "data": {"training pairs": "10"}, "tokenizer": {}}


def card_of(config, metrics=(), counts=(), messages: bool = False, adapter: bool = False) -> str:
    return model_card(config, dict(metrics), dict(counts), 7, "Llama", FACTS, messages, adapter)


def test_a_model_card_says_what_was_done(tmp_path):
    config = composed(tmp_path, "model=llama", "data=hh", "loss.beta=0.3")
    card = card_of(config, {"val/loss": 0.5, "train/loss": 9.0}, {"train": 10, "val": 2})
    assert "Trained from meta-llama/Llama-3.2-1B (Llama) on preference pairs" in card
    assert "The weights are those of optimizer step 7" in card
    assert "- train: 10" in card
    assert "| validation loss ↓ | 0.5 |" in card
    assert "training loss" not in card
    assert "beta: 0.3" in card
    assert "- starting weights (sha256): 12ab" in card


def test_the_hub_reads_base_datasets_and_results(tmp_path):
    config = composed(tmp_path, "model=llama", "data=hh")
    data = ModelCard(card_of(config, {"val/rewards/accuracies": 0.75, "val/kl": 3.0})).data
    assert (data.base_model, data.datasets) == ("meta-llama/Llama-3.2-1B", ["Anthropic/hh-rlhf"])
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    results = {one.metric_type: (one.metric_value, one.dataset_type) for one in data.eval_results}
    assert results == {
        "accuracy": (0.75, "Anthropic/hh-rlhf"), "kl_divergence": (3.0, "Anthropic/hh-rlhf")
    }  # fmt: skip


def test_the_datasets_of_a_mixture_that_are_used(tmp_path):
    overrides = ["data=mixture", "data.sources={hh: 1, ultrafeedback: 1}", "data.path={hh: pairs.jsonl}"]
    data = ModelCard(card_of(composed(tmp_path, "model=llama", *overrides))).data
    assert data.datasets == ["HuggingFaceH4/ultrafeedback_binarized"]


def test_a_local_base_gives_its_license_and_no_path(tmp_path):
    base = tmp_path / "my_base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    pairs = tmp_path / "pairs.jsonl"
    pairs.touch()
    config = composed(tmp_path, "model=llama", f"model.name={base}", "data=jsonl", f"data.path={pairs}")
    command = f"python -m lightning_dpo.train model.name={base} data.path={pairs} hydra.run.dir={tmp_path}/x"
    (tmp_path / "command.txt").write_text(command)
    card = card_of(config)
    assert str(tmp_path) not in card
    assert "Trained from my_base (Llama)" in card
    assert "Command: `python -m lightning_dpo.train model.name=my_base data.path=pairs.jsonl`" in card
    data = ModelCard(card).data
    assert (data.license, data.base_model, data.datasets) == ("apache-2.0", None, None)


@pytest.mark.parametrize(
    "overrides",
    [
        ["data=hub", "data.name=/nas/me/pairs"],
        ["data=mixture", "data.path={hh: /nas/me/hh.jsonl}", "data.sources={hh: 1, ultrafeedback: 1}"],
        ["data=jsonl", "data.path=../me/pairs.jsonl"],
        ["data=jsonl", "data.path='~/me/pairs.jsonl'", "data.val_path=./me/val.jsonl"],
    ],
)
def test_paths_that_no_longer_exist_do_not_reach_a_card(tmp_path, overrides):
    (tmp_path / "command.txt").write_text(f"python -m lightning_dpo.train {shlex.join(overrides)}")
    card = card_of(composed(tmp_path, "model=llama", "model.name=/nas/me/base", *overrides))
    assert "me/" not in card
    assert {"/nas/me/base", "/nas/me/pairs"}.isdisjoint(
        {ModelCard(card).data.base_model, *(ModelCard(card).data.datasets or ())}
    )


def test_control_characters_and_html_do_not_reach_a_card(tmp_path):
    config = composed(tmp_path, "model=llama", "data=hh")
    config.model.name = "org/\x1b[2Jname"
    card = card_of(config, {"val/<script>\x1b/loss": 0.5}, {"train_of_a\n# heading": 1})
    assert "\x1b" not in card
    assert "<script>" not in card
    assert "\n# heading" not in card


def test_values_of_the_environment_do_not_reach_an_export(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "SENTINEL")
    secret = "${oc.env:SECRET}"
    config = composed(
        tmp_path, "model=llama", "data=hub", *(f"{key}={secret}" for key in ("model.name", "data.name", "loss.beta"))
    )
    assert "SENTINEL" not in str(record(config, FACTS)) + card_of(config)


@pytest.mark.parametrize(("adapter", "messages"), [(True, False), (False, False), (False, True)])
def test_the_code_in_the_card_loads_the_export(
    tmp_path, model_folder, tokenizer, monkeypatch, capsys, adapter, messages
):
    config = composed(tmp_path, "model=llama", "adapter=lora", "data=hh", f"model.name={model_folder}")
    tokenizer = chat_tokenizer(tokenizer) if messages else tokenizer
    policy = LoRA(r=2)(make_llama(vocab_size=VOCABULARY + 2))
    policy.get_base_model().save_pretrained(tmp_path / "base")
    policy.name_or_path = policy.get_base_model().name_or_path = str(tmp_path / "base")
    export(
        policy if adapter else merged(policy),
        tokenizer,
        tmp_path / "export",
        card_of(config, (), (), messages, adapter),
    )
    monkeypatch.chdir(tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert ModelCard(card).data.library_name == ("peft" if adapter else "transformers")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.startswith("<|im_start|>user\nHello<|im_end|>" if messages else "Hello")
