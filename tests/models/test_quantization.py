"""QLoRA on the CPU. `.ci/run` runs these tests with bitsandbytes installed, which slows down every import of peft."""

import math

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from transformers import AutoConfig, AutoModelForImageTextToText

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO
from lightning_dpo.models import CausalLM, LoRA, NoAdapter
from lightning_dpo.models.merging import merged
from lightning_dpo.models.quantization import is_quantized
from lightning_dpo.runs.exports import compared, export
from lightning_dpo.train import train
from tests.models.test_opening import MULTIMODAL
from tests.support.compose import composed
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs

bitsandbytes = pytest.importorskip("bitsandbytes")

KINDS = ["nf4", "int8"]
BATCH = padded_batch(random_pairs(4, vocabulary=290))


@pytest.fixture
def folder(tmp_path, tokenizer):
    """Layers large enough for blocks of 64 weights."""
    path = tmp_path / "model"
    make_llama(
        hidden_size=128, intermediate_size=256, initializer_range=0.1, vocab_size=len(tokenizer)
    ).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def module_of(folder, kind, precision="32-true", **options) -> DPOModule:
    module = DPOModule(CausalLM(str(folder), quantization=kind), adapter=LoRA(r=4, **options))
    module.trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    module.configure_model()
    return module


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_loss_starts_at_ln_2_and_only_the_adapter_has_gradients(folder, kind, precision):
    module = module_of(folder, kind, precision)
    with module.trainer.precision_plugin.forward_context():
        module.eval()
        module(BATCH)  # a validation before the first step must not change the weights
        module.train()
        losses = module.loss(module(BATCH)).losses
        losses.mean().backward()
    assert losses.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-6)
    for name, value in module.policy.named_parameters():
        assert (value.grad is not None) == ("lora_" in name)
    assert (
        sum(float(value.grad.abs().sum()) for name, value in module.policy.named_parameters() if "lora_B" in name) > 0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_dequantized_model(folder, kind):
    module = module_of(folder, kind)
    torch.manual_seed(0)
    for name, value in module.policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)

    def gradients(policy):
        completion_logps(policy.eval(), BATCH)
        trained = {name: value for name, value in policy.train().named_parameters() if "lora_" in name}
        sums = completion_logps(policy, BATCH).sums
        return sums.detach(), dict(zip(trained, torch.autograd.grad(sums.sum(), list(trained.values())), strict=True))

    from lightning_dpo.models.quantization import dequantized

    (sums, ours), (expected, theirs) = gradients(module.policy), gradients(dequantized(module.policy, "default"))
    torch.testing.assert_close(sums, expected, atol=1e-3, rtol=0)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_export_is_the_model_that_was_trained(folder, kind, tmp_path, pairs_file, tokenizer):
    module = DPOModule(CausalLM(str(folder), quantization=kind), DPO(beta=0.5), adapter=LoRA(r=4))
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=8, val_fraction=0.2)
    trainer = Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, data)
    with compared(module.policy, tmp_path / "merged"):
        export(merged(module.policy), tokenizer, tmp_path / "merged", "card")
    opened = CausalLM(str(tmp_path / "merged")).policy()
    assert not is_quantized(opened)
    assert opened.dtype == torch.float32


def test_a_quantized_base_is_a_fraction_of_the_memory(folder):
    def linear_bytes(policy) -> int:
        return sum(value.numel() * value.element_size() for name, value in policy.named_parameters() if "proj" in name)

    full, nf4, int8 = (linear_bytes(CausalLM(str(folder), quantization=kind).policy()) for kind in (None, *KINDS))
    assert (full / nf4, full / int8) == (8, 4)


def test_what_cannot_be_quantized(folder, tmp_path):
    with pytest.raises(ValueError, match="quantization must be one of nf4, int8, got 'fp4'"):
        CausalLM(str(folder), quantization="fp4")
    config = composed(tmp_path, "model=llama", f"model.name={folder}", "model.quantization=nf4", "data=hh")
    with pytest.raises(UserError, match=r"model.quantization needs adapter=lora: quantized weights cannot be trained"):
        train(config)
    module = DPOModule(CausalLM(str(folder), quantization="nf4"), adapter=NoAdapter())
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.trainer.state.fn = TrainerFn.FITTING
    with pytest.raises(UserError, match="quantized weights cannot be trained: set adapter=lora"):
        module.configure_model()


def test_a_checkpoint_that_is_quantized_is_opened_as_it_is(folder, tmp_path):
    CausalLM(str(folder), quantization="nf4").policy().save_pretrained(tmp_path / "nf4")
    assert is_quantized(CausalLM(str(tmp_path / "nf4")).policy())
    with pytest.raises(UserError, match=r"nf4 is quantized already: remove model.quantization"):
        CausalLM(str(tmp_path / "nf4"), quantization="int8").policy()


def test_the_vision_tower_is_not_quantized(tmp_path):
    config = AutoConfig.for_model("gemma3", **MULTIMODAL["gemma3"])
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    policy = CausalLM(str(tmp_path), quantization="nf4").policy()
    kinds = {value.dtype for name, value in policy.named_parameters() if "vision" in name}
    assert kinds == {torch.float32}
    assert any(value.dtype == torch.uint8 for value in policy.parameters())
