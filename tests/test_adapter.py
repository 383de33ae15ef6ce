"""LoRA: what is trained, what is the reference, what a checkpoint holds and what an export is."""

import pytest
import torch
from peft import PeftModel

from lightning_dpo import DPOModule, UserError
from lightning_dpo.adapter import Continue, LoRA, copy_adapter, with_copy, without_adapter
from lightning_dpo.logps import completion_logps
from lightning_dpo.losses import DPO
from lightning_dpo.reference import AdapterOff
from tests.conftest import make_llama, padded_batch, random_pairs


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
    with pytest.raises(RuntimeError, match="switched only where no gradient is recorded"), context(policy):
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


def test_gradients_are_those_of_peft_alone(pairs_file):
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
    with pytest.raises(UserError, match=r"adapter=continue: model.name is no adapter"):
        Continue()(make_llama())
    with pytest.raises(UserError, match=r"adapter=lora: model.name is an adapter already"):
        LoRA()(trained_lora())
    with pytest.raises(UserError, match=r"adapter.target_modules=\['nothing'\]: Target modules"):
        LoRA(target_modules=["nothing"])(make_llama())
    with pytest.raises(UserError, match=r"adapter.modules_to_save: the model has no module lm_hed"):
        LoRA(modules_to_save=["lm_hed"])(make_llama())
    with pytest.raises(UserError, match=r"reference=adapter_off: the policy has no adapter"):
        AdapterOff()(make_llama(), DPO())
    for name, value in (("r", 0), ("alpha", 0), ("dropout", 1)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            LoRA(**{name: value})
