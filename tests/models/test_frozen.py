"""Frozen weights in bf16: the same numbers in half the memory."""

import pytest
import torch
from lightning import Trainer
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_dpo import DPOModule
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.models import AnotherModel, CausalLM, Continue, Frozen, LoRA
from lightning_dpo.models.frozen import can_store_in_bf16, restore, store_in_bf16
from lightning_dpo.models.merging import merged
from lightning_dpo.models.preparation import ready_policy
from lightning_dpo.runs.exports import export
from tests.support.models import SMALL, VOCABULARY, make_llama
from tests.support.pairs import padded_batch, random_pairs

BATCH = padded_batch(random_pairs(4))
PRECISIONS = ("32-true", "bf16-mixed")
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
MODELS = {
    "llama": make_llama,
    "tied llama": lambda: make_llama(tie_word_embeddings=True),
    "gpt2": lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **GPT2)),
    "gemma3": lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3_text", **SMALL, head_dim=8)),
}


def lora(policy):
    policy = LoRA(r=4)(policy)
    torch.manual_seed(1)
    for name, value in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    return policy


def computed(policy) -> list[torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        sums = completion_logps(policy, BATCH).sums
    trained = [value for value in policy.parameters() if value.requires_grad]
    return [sums, *torch.autograd.grad(sums.sum(), trained)] if trained else [sums]


def size(model) -> int:
    return sum(value.numel() * value.element_size() for value in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("wrap", [lora, lambda policy: policy.requires_grad_(False)], ids=["lora", "reference"])
def test_log_probs_and_gradients_are_the_same_bit_for_bit(name, wrap):
    policy = wrap(ready_policy(MODELS[name]()))
    before, full = computed(policy), size(policy)
    store_in_bf16(policy, torch.device("cpu"))
    assert size(policy) < full
    for old, new in zip(before, computed(policy), strict=True):
        assert torch.equal(old, new)
    # Also where a callback calls it without autocast.
    assert torch.equal(completion_logps(policy, BATCH).sums, before[0])


def module_of(folder, precision: str, **options) -> DPOModule:
    torch.manual_seed(0)
    module = DPOModule(str(folder), **options)
    module.trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    module.configure_model()
    return module


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_a_module_holds_the_base_of_an_adapter_and_a_copied_reference(model_folder, precision, dtype):
    adapted = module_of(model_folder, precision, adapter=LoRA(r=2))
    copied = module_of(model_folder, precision, reference=Frozen())
    for model in (adapted.policy, copied.reference.model):
        matrices = [value for name, value in model.named_parameters() if "o_proj" in name and "lora" not in name]
        assert {value.dtype for value in matrices} == {dtype}
    assert all(value.dtype == torch.float32 for value in adapted.policy.parameters() if value.requires_grad)
    assert all(value.dtype == torch.float32 for value in copied.policy.parameters())


def test_a_merged_model_has_the_weights_of_the_files(model_folder):
    """Not those that were rounded to bf16."""
    exact = module_of(model_folder, "32-true", adapter=LoRA(r=2)).policy
    held = module_of(model_folder, "bf16-mixed", adapter=LoRA(r=2)).policy
    restore(held)
    for ours, theirs in zip(held.parameters(), exact.parameters(), strict=True):
        if not ours.requires_grad:
            assert torch.equal(ours, theirs)
    assert merged(held).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "stored"),
    [({"modules_to_save": ["lm_head"]}, True), ({"use_dora": True}, False), ({"init_lora_weights": "pissa"}, False)],
)
def test_only_what_computes_the_same_is_stored_in_bf16(model_folder, options, stored):
    """DoRA computes with the norms of base weights, and PiSSA has replaced them."""
    exact, other = (
        module_of(model_folder, precision, adapter=LoRA(r=2, **options)).policy
        for precision in ("32-true", "bf16-mixed")
    )
    assert any(value.dtype == torch.bfloat16 for value in other.parameters()) is stored
    for ours, theirs in zip(computed(other), computed(exact), strict=True):
        assert torch.equal(ours, theirs)
    restore(other)
    for ours, theirs in zip(other.parameters(), exact.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_frozen_copy_of_a_model_with_dora_starts_equal(model_folder):
    module = module_of(model_folder, "bf16-mixed", adapter=LoRA(r=2, use_dora=True), reference=Frozen())
    with module.trainer.precision_plugin.forward_context():
        sums = completion_logps(module.policy, BATCH).sums
        assert torch.equal(module.reference.logps(BATCH).sums, sums)


def test_a_continued_adapter_and_its_frozen_copy(tmp_path, model_folder, tokenizer):
    adapter = tmp_path / "adapter"
    export(lora(CausalLM(str(model_folder)).policy()), tokenizer, adapter, "card")
    exact, other = (module_of(adapter, precision, adapter=Continue()) for precision in PRECISIONS)
    for ours, theirs in zip(computed(other.policy), computed(exact.policy), strict=True):
        assert torch.equal(ours, theirs)
    restore(other.policy)
    assert {value.dtype for value in other.policy.parameters()} == {torch.float32}


def test_the_digest_of_another_reference_does_not_depend_on_the_precision(tmp_path, model_folder):
    make_llama(seed=1).save_pretrained(tmp_path / "other")
    reference = AnotherModel(str(tmp_path / "other"))
    facts = [
        module_of(model_folder, name, reference=reference).identity.facts["weights"]
        for name in ("32-true", "bf16-mixed")
    ]
    assert facts[0] == facts[1]


def test_a_model_that_was_created_in_code_is_not_converted():
    """Its weights could not be read again for a merged export."""
    assert not can_store_in_bf16(LoRA(r=2)(make_llama()))
    assert not can_store_in_bf16(make_llama())
