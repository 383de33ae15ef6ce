"""Frozen weights in bf16: the same numbers in half the memory."""

import pytest
import torch
from lightning import Trainer
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_dpo import DPOModule
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.models import Frozen, LoRA
from lightning_dpo.models.frozen import can_hold, hold_in_bf16, restore
from lightning_dpo.models.merging import merged
from lightning_dpo.models.preparation import ready_policy
from tests.support.models import SMALL, VOCABULARY, make_llama
from tests.support.pairs import padded_batch, random_pairs

BATCH = padded_batch(random_pairs(4))
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
    hold_in_bf16(policy)
    assert size(policy) < full
    for old, new in zip(before, computed(policy), strict=True):
        assert torch.equal(old, new)
    # Also where a callback calls it without autocast.
    assert torch.equal(completion_logps(policy, BATCH).sums, before[0])


def module_of(folder, precision: str, **options) -> DPOModule:
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


def test_a_model_that_was_created_in_code_is_not_converted():
    """Its weights could not be read again for a merged export."""
    assert not can_hold(LoRA(r=2)(make_llama()))
    assert not can_hold(make_llama())
