"""Digests of weights: equal for equal weights however they are opened, and computed once per file."""

import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from lightning_dpo.errors import UserError
from lightning_dpo.models import LoRA, digests, facts
from lightning_dpo.models.causal_lm import CausalLM
from lightning_dpo.models.digests import file_digest, weights_digest
from lightning_dpo.models.facts import adapter_facts, model_facts, reference_facts, weights_facts
from lightning_dpo.models.reference import FrozenModel
from tests.support.models import make_llama


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_has_the_digest_of_its_weights_however_it_is_opened(model_folder, llama):
    opened = CausalLM(str(model_folder))
    expected = {"starting weights (sha256)": weights_digest(llama), "starting adapter (sha256)": "none"}
    assert weights_facts(opened.policy(), opened) == weights_facts(llama, llama) == expected
    assert weights_digest(make_llama(seed=1)) != weights_digest(llama)


def test_the_base_below_an_adapter_has_its_own_digest(llama):
    expected = weights_digest(llama)
    policy = LoRA(r=2, modules_to_save=["lm_head"])(llama)
    assert weights_digest(policy) == expected
    assert len(weights_facts(policy, policy)["starting adapter (sha256)"]) == 12
    assert adapter_facts(policy)["shape"] == {
        "adapter": "LORA",
        "adapter.r": "2",
        "use_dora": "False",
        "rank_pattern": "{}",
        "init_lora_weights": "True",
    }


def test_adapters_on_one_base_are_different_references(llama):
    found = []
    for seed in (0, 1):
        base = make_llama()
        torch.manual_seed(seed)
        model = LoRA(r=2)(base)
        found.append(reference_facts(FrozenModel(model, starts_equal=False))["reference"])
    assert found[0] != found[1]


def test_a_file_is_hashed_once_until_it_changes(model_folder, monkeypatch):
    calls = []

    def counted(model):
        calls.append(model)
        return weights_digest(model)

    monkeypatch.setattr(facts, "weights_digest", counted)
    opened = CausalLM(str(model_folder))
    first = [weights_facts(opened.policy(), opened) for _ in range(3)]
    assert len(calls) == 1
    make_llama(seed=1).save_pretrained(model_folder)
    assert weights_facts(opened.policy(), opened) != first[0]
    assert len(calls) == 2


def test_a_change_that_keeps_size_and_time_is_noticed_in_the_first_block(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("a" * 100)
    before = file_digest(path)
    status = path.stat()
    path.write_text("b" + "a" * 99)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_digest(path) != before


def test_without_a_writable_cache_it_is_computed(tmp_path, cache):
    cache.write_text("a file where the folder should be")
    (tmp_path / "a").write_text("a")
    assert len({file_digest(tmp_path / "a") for _ in range(2)}) == 1
    assert digests.file_digest(tmp_path / "a")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    model = make_llama()
    with torch.no_grad():
        model.model.norm.weight[3] = value
    with pytest.raises(UserError, match=r"^the weight model.norm.weight of the model is NaN or infinite, or too large"):
        weights_facts(model, model)


def test_weights_that_are_too_large_for_fp32_are_named(tmp_path):
    model = make_llama().double()
    with torch.no_grad():
        model.model.norm.weight[3] = 1e39
    model.save_pretrained(tmp_path)
    source = CausalLM(str(tmp_path))
    with pytest.raises(UserError, match=r"the weight model.norm.weight of .* too large for torch.float32"):
        weights_facts(source.policy(), source)


def test_a_field_of_the_config_is_a_fact():
    one, other = (model_facts(make_llama(rms_norm_eps=eps)) for eps in (1e-5, 1e-6))
    assert {name for name in one if one[name] != other[name]} == {"model.rms_norm_eps"}


@pytest.mark.parametrize(
    "options",
    [{"init_lora_weights": "pissa"}, {"alpha_pattern": {"q_proj": 8}}, {"rank_pattern": {"q_proj": 2}}],
    ids=str,
)
def test_options_of_an_adapter_that_change_the_model_are_facts(options):
    plain, other = (adapter_facts(LoRA(r=4, **more)(make_llama())) for more in ({}, options))
    assert plain != other
    assert {kind: facts.keys() for kind, facts in plain.items()} == {
        kind: facts.keys() for kind, facts in other.items()
    }
