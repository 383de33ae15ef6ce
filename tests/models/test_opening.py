"""Checkpoints that are not plain causal LMs: opened completely, with the unused parts frozen, or refused."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

from lightning_dpo import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.models import CausalLM, LoRA
from lightning_dpo.models.opening import other_parts
from lightning_dpo.models.preparation import ready_policy
from lightning_dpo.models.probe import check_causal
from lightning_dpo.runs.exports import export
from lightning_dpo.shared_prefix.trial import share_prefixes
from tests.support.models import SMALL, VOCABULARY, make_llama
from tests.support.pairs import padded_batch, random_pairs, shared_batch

TEXT = SMALL | {"head_dim": 8}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
QWEN_VISION = {
    "hidden_size": 16, "intermediate_size": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "out_hidden_size": 32,
    "num_position_embeddings": 16, "spatial_merge_size": 1, "temporal_patch_size": 1,
}  # fmt: skip
MULTIMODAL = {
    "gemma3": {"text_config": TEXT | {"sliding_window": 8}, "vision_config": VISION, "mm_tokens_per_image": 4},
    "llava": {
        "text_config": SMALL | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model", "projection_dim": 16},
    },
    "qwen3_5": {
        "text_config": TEXT | {
            "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
            "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        },
        "vision_config": QWEN_VISION,
    },
}  # fmt: skip


@pytest.fixture(params=MULTIMODAL)
def multimodal_folder(request, tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **MULTIMODAL[request.param])
    model = AutoModelForImageTextToText.from_config(config)
    folder = tmp_path / request.param
    model.save_pretrained(folder)
    return folder


def test_a_multimodal_model_is_opened_trained_and_exported_with_all_of_its_parts(
    multimodal_folder, tokenizer, tmp_path
):
    saved = load_file(multimodal_folder / "model.safetensors")
    policy = ready_policy(CausalLM(str(multimodal_folder)).policy())
    vision = [value for name, value in policy.named_parameters() if "visual" in name or "vision" in name]
    assert vision
    assert not any(value.requires_grad for value in vision)
    completion_logps(policy, padded_batch(random_pairs(3))).sums.sum().backward()
    trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    assert all(value.grad is not None for value in trained.values()), "no parameter is without gradient under DDP"
    with torch.no_grad():
        next(iter(trained.values())).add_(1)
    export(policy, tokenizer, tmp_path / "export", card="# A model")
    exported = load_file(tmp_path / "export" / "model.safetensors")
    assert exported.keys() == saved.keys()
    different = [name for name, value in exported.items() if not torch.equal(value, saved[name])]
    assert len(different) == 1
    assert type(CausalLM(str(tmp_path / "export")).policy()) is type(policy)


def test_prompts_are_shared_although_the_vision_tower_has_no_gradient(tmp_path):
    folder = tmp_path / "gemma3"
    AutoModelForImageTextToText.from_config(AutoConfig.for_model("gemma3", **MULTIMODAL["gemma3"])).save_pretrained(
        folder
    )
    pairs = random_pairs(3)
    for wrap in (lambda policy: policy, LoRA(r=2)):
        policy = wrap(ready_policy(CausalLM(str(folder)).policy()))
        assert share_prefixes([policy], padded_batch(pairs), shared_batch(pairs), "32-true") is None


def test_lora_adapts_only_the_language_model(multimodal_folder):
    policy = LoRA(r=2)(CausalLM(str(multimodal_folder)).policy())
    adapted = [name for name, value in policy.named_parameters() if value.requires_grad]
    assert adapted
    assert not any(f".{part}." in name for name in adapted for part in other_parts(policy.get_base_model()))


def test_an_encoder_decoder_model_is_refused_before_its_weights_are_read(tmp_path):
    config = AutoConfig.for_model("t5", d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, vocab_size=VOCABULARY)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"is an encoder-decoder model \(t5\): DPO needs a causal language model"):
        CausalLM(str(tmp_path)).policy()


def test_a_model_that_attends_to_later_tokens_is_refused(tmp_path):
    text = TEXT | {"model_type": "gemma", "use_bidirectional_attention": True}
    config = AutoConfig.for_model(
        "paligemma", text_config=text, vision_config=VISION | {"model_type": "siglip_vision_model"}, projection_dim=32
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is not causal \(paligemma\): its tokens attend to later ones"):
        CausalLM(str(tmp_path)).policy()


def test_tensors_that_are_not_used_are_reported(tmp_path, caplog):
    make_llama().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"score.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with caplog.at_level(logging.WARNING):
        CausalLM(str(tmp_path)).policy()
    assert "has 1 tensors that LlamaForCausalLM does not use and that its export will not contain" in caplog.text


def test_an_architecture_without_sdpa_names_the_key(tmp_path):
    source = CausalLM("x", pretrained=False, config={"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1})
    with pytest.raises(UserError, match=r"mamba does not support model.attention=sdpa: set model.attention=eager"):
        source.policy()


def test_an_encoder_is_refused():
    settings = {name: value for name, value in SMALL.items() if name != "num_key_value_heads"}
    encoder, decoder = (
        AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **settings, is_decoder=causal))
        for causal in (False, True)
    )
    check_causal(decoder)
    with pytest.raises(UserError, match="BertLMHeadModel is not causal: its tokens attend to later ones"):
        check_causal(encoder)
