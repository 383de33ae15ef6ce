"""LoRA: what is trained, what is the reference, what a checkpoint holds and what an export is."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from lightning_dpo import DPOModule, UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO
from lightning_dpo.models.adapter import AdapterFactory, Continue
from lightning_dpo.models.adapter_switching import copy_adapter, with_copy, without_adapter
from lightning_dpo.models.lora import LoRA
from lightning_dpo.models.merging import merged
from lightning_dpo.models.probe import probe
from lightning_dpo.models.reference_factories import AdapterOff
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs


def trained_lora(seed: int = 0, **options) -> PeftModel:
    """An adapter that changes what the model says."""
    policy = LoRA(r=4, **options)(make_llama())
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    return policy


def flags(policy) -> list[bool]:
    return [module.training for module in policy.modules()] + [value.requires_grad for value in policy.parameters()]


@pytest.mark.parametrize("context", [without_adapter, with_copy])
def test_every_flag_is_afterwards_what_it_was(context):
    """peft's own context would make a frozen adapter trainable."""
    policy = trained_lora(dropout=0.3)
    copy_adapter(policy)
    first = next(value for name, value in policy.named_parameters() if "lora_A" in name)
    first.requires_grad_(False)
    next(policy.modules()).training = False
    before = flags(policy)
    with torch.no_grad(), context(policy):
        assert not any(module.training for module in policy.modules())
    assert flags(policy) == before


@pytest.mark.parametrize("context", [without_adapter, with_copy])
def test_no_gradient_within(context):
    policy = trained_lora()
    copy_adapter(policy)
    loss = completion_logps(policy, padded_batch(random_pairs(2))).sums.sum()
    with pytest.raises(RuntimeError, match="switched only without gradients"), context(policy):
        pass
    with pytest.raises(RuntimeError, match="wrong gradients"), torch.no_grad(), context(policy):
        loss.backward()


def test_without_its_adapter_the_policy_is_its_base_and_with_the_copy_what_it_was():
    policy, batch = trained_lora(dropout=0.5), padded_batch(random_pairs(4))
    base = completion_logps(make_llama().eval(), batch).sums
    policy.eval()
    start = completion_logps(policy, batch).sums.detach()
    policy.train()
    copy_adapter(policy)
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if "default" in name:
                value.add_(1)
        with without_adapter(policy):
            assert torch.equal(completion_logps(policy, batch).sums, base)
        with with_copy(policy):
            assert torch.equal(completion_logps(policy, batch).sums, start)


def test_gradients_are_those_of_plain_peft(pairs_file):
    """One step, the reference's pass in between, with gradient checkpointing and without."""
    pairs = random_pairs(4)
    batch, gradients = padded_batch(pairs), []
    for checkpointing in (False, True):
        policy = trained_lora()
        if checkpointing:
            policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        module = DPOModule(policy, reference=AdapterOff())
        module.configure_model()
        module.loss(module(batch)).losses.sum().backward()
        gradients.append([value.grad for value in policy.parameters() if value.requires_grad])
    plain, base = trained_lora(), make_llama()
    sums, start = completion_logps(plain, batch).sums, completion_logps(base, batch).sums.detach()
    margin = (sums - start)[batch.chosen] - (sums - start)[batch.rejected]
    (-torch.nn.functional.logsigmoid(0.1 * margin)).sum().backward()
    gradients.append([value.grad for value in plain.parameters() if value.requires_grad])
    for one, two, three in zip(*gradients, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(two, three, rtol=1e-4, atol=1e-6)


def test_what_cannot_be(model_folder, tmp_path, tokenizer):
    with pytest.raises(UserError, match=r"adapter=continue: model.name is not an adapter"):
        Continue()(make_llama())
    with pytest.raises(UserError, match=r"adapter=lora: model.name already is an adapter"):
        LoRA()(trained_lora())
    with pytest.raises(UserError, match=r"adapter: Target modules"):
        LoRA(target_modules=["nothing"])(make_llama())
    with pytest.raises(UserError, match=r"adapter.modules_to_save: the model has no module lm_hed"):
        LoRA(modules_to_save=["lm_hed"])(make_llama())
    with pytest.raises(UserError, match=r"reference=adapter_off: the policy has no adapter"):
        AdapterOff()(make_llama(), DPO())
    for name, value in (("r", 0), ("alpha", 0), ("dropout", 1)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            LoRA(**{name: value})


def test_an_adapter_that_changes_the_policy_is_rejected():
    class Careless(AdapterFactory):
        def __call__(self, policy):
            policy.lm_head.weight.data *= 1.1
            return LoRA(r=2)(policy)

    module = DPOModule(make_llama(), DPO(0.3), adapter=Careless())
    with pytest.raises(UserError, match="the policy changed when its adapter or reference was"):
        module.configure_model()


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
)
def test_a_merged_model_with_tied_embeddings_is_the_model_with_its_adapter(tmp_path, options):
    policy = get_peft_model(make_llama(tie_word_embeddings=True), LoraConfig(r=4, **options))
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    expected = probe(policy)
    merged(policy).save_pretrained(tmp_path)
    opened = LlamaForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(probe(opened), expected, rtol=0, atol=1e-4)
