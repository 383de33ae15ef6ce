import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.models.causal_lm import CausalLM
from lightning_dpo.models.lora import LoRA
from lightning_dpo.models.preparation import check_fits, ready_policy
from lightning_dpo.models.tokenizers import ready_tokenizer
from lightning_dpo.runs.exports import export
from tests.support.models import SMALL, VOCABULARY, make_llama
from tests.support.pairs import padded_batch, random_pairs


def test_weights_are_float32_whatever_the_checkpoint_holds(tmp_path):
    make_llama().bfloat16().save_pretrained(tmp_path)
    assert CausalLM(str(tmp_path)).policy().dtype == torch.float32
    assert CausalLM(str(tmp_path), dtype="bfloat16").policy().dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", SMALL | {"attention_dropout": 0.5}),
        ("gpt2", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4,
                  "attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
        ("gpt_neox", {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
         | {"attention_dropout": 0.5, "hidden_dropout": 0.5}),
        ("opt", {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "dropout": 0.5,
                 "num_attention_heads": 4, "word_embed_proj_dim": 32, "attention_dropout": 0.5, "layerdrop": 0.5}),
    ],
)  # fmt: skip
def test_all_dropout_is_off_in_training_mode(model_type, settings):
    policy = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    batch = padded_batch(random_pairs(4))
    assert not torch.equal(completion_logps(policy.train(), batch).sums, completion_logps(policy, batch).sums)
    ready_policy(policy)
    assert policy.training
    # Not to the bit: OPT differed once between two passes, for a reason that is not known.
    torch.testing.assert_close(completion_logps(policy, batch).sums, completion_logps(policy, batch).sums)


def test_the_pad_tokens_embedding_is_trained():
    policy = ready_policy(make_llama(pad_token_id=0))
    batch = padded_batch(random_pairs(4))
    batch.input_ids[:, 0] = 0  # the pad token at the start of every prompt
    completion_logps(policy, batch).sums.sum().backward()
    assert policy.get_input_embeddings().weight.grad[0].abs().sum() > 0


def test_builds_an_architecture_without_a_checkpoint():
    source = CausalLM("no/such-model", pretrained=False, config={"model_type": "qwen3", **SMALL})
    assert type(source.policy()).__name__ == "Qwen3ForCausalLM"


def test_gradient_checkpointing_changes_no_gradient(model_folder):
    batch, gradients = padded_batch(random_pairs(4)), []
    for checkpointing in (False, True):
        policy = ready_policy(CausalLM(str(model_folder), gradient_checkpointing=checkpointing).policy())
        assert policy.is_gradient_checkpointing == checkpointing
        completion_logps(policy, batch).sums.sum().backward()
        gradients.append([parameter.grad for parameter in policy.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_an_export_opens_in_transformers_and_gives_the_same_answers(tmp_path, llama, tokenizer):
    export(ready_policy(llama), tokenizer, tmp_path, card="# A model")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    batch = padded_batch(random_pairs(5))
    torch.testing.assert_close(completion_logps(opened, batch).sums, completion_logps(llama, batch).sums)
    assert AutoTokenizer.from_pretrained(tmp_path)("the film").input_ids == tokenizer("the film").input_ids
    assert (tmp_path / "README.md").read_text() == "# A model"
    assert opened.config.use_cache
    assert not list(tmp_path.glob("*.bin"))


def test_a_missing_pad_token_becomes_the_end_of_sequence(tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    assert ready_tokenizer(bare).pad_token_id == bare.eos_token_id


def test_a_tokenizer_must_end_sequences(tokenizer):
    with pytest.raises(UserError, match="no end-of-sequence token"):
        ready_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer))


def test_more_tokens_than_embeddings(tokenizer):
    with pytest.raises(UserError, match=r"the tokenizer has a token with the id 298 and the policy has 64 embeddings"):
        check_fits(make_llama(vocab_size=64), tokenizer, 10)


def test_more_tokens_than_positions(tokenizer):
    with pytest.raises(UserError, match=r"data.max_length=2048: the model supports 1024 tokens"):
        check_fits(make_llama(), tokenizer, 2048)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "fp32"}, "dtype must be one of float32, bfloat16, float16, got 'fp32'"),
        ({"pretrained": False}, "must contain model_type"),
    ],
)
def test_rejects_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        CausalLM("name", **options)


def test_reports_a_missing_model(tmp_path):
    source = CausalLM(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"model.name=.*absent is neither a folder with a saved model nor a hub id"):
        source.policy()
    with pytest.raises(UserError, match=r"model.name=.*absent is neither a folder"):
        source.tokenizer()
    named = CausalLM("x", pretrained=False, config={"model_type": "llama"}, tokenizer_name=str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"model .*other is neither a folder"):
        named.tokenizer()


def test_an_adapter_whose_model_is_gone_or_whose_weights_are(tmp_path, model_folder, tokenizer):
    adapter = tmp_path / "adapter"
    export(LoRA(r=2)(CausalLM(str(model_folder)).policy()), tokenizer, adapter, "card")
    for file in adapter.glob("tokenizer*"):
        file.unlink()
    assert len(CausalLM(str(adapter)).tokenizer()) == len(tokenizer), "its model's"
    (adapter / "adapter_model.safetensors").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"model.name=.*adapter: the adapter does not fit .*model: "):
        CausalLM(str(adapter)).policy()
    (tmp_path / "away").rename(adapter / "adapter_model.safetensors")
    model_folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"model.name=.*adapter: its base model .*model is neither a folder"):
        CausalLM(str(adapter)).policy()


def truncated(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_a_tensor(path) -> None:
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def as_pickle(path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "executed"),)

    path.unlink()
    torch.save({"model.norm.weight": Bomb()}, path.with_name("pytorch_model.bin"))


def set_field(name: str, value):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


DAMAGES = {
    "truncated weights": ("model.safetensors", truncated, "cannot be opened: "),
    "no weights": ("model.safetensors", Path.unlink, "cannot be opened: "),
    "a tensor is missing": (
        "model.safetensors",
        without_a_tensor,
        "lacks 1 tensors of LlamaForCausalLM",
    ),
    "a pickle that executes code": ("model.safetensors", as_pickle, "cannot be opened: its weights are a Python"),
    "weights of another size": ("config.json", set_field("hidden_size", 64), "cannot be opened: "),
    "another architecture": ("config.json", set_field("model_type", "bert"), "lacks .* tensors of BertLMHeadModel"),
    "a config that is a list": ("config.json", lambda path: path.write_text("[1]"), "cannot be opened: "),
    "a config that is not JSON": ("config.json", lambda path: path.write_text("{"), "cannot be opened: "),
    "code of the author": (
        "config.json",
        set_field("auto_map", {"AutoModelForCausalLM": "evil.Evil"}),
        "cannot be opened: |lacks",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_malicious_model_is_one_sentence(model_folder, name):
    file, damage, message = DAMAGES[name]
    damage(model_folder / file)
    source = CausalLM(str(model_folder))
    if name == "code of the author":  # it is ignored: the architecture is known
        assert source.policy().config.model_type == "llama"
        return
    with pytest.raises(UserError, match=f"^model.name=.*model {message}") as error:
        source.policy()
    assert "\n" not in str(error.value)
    assert not (model_folder / "executed").exists()


@pytest.mark.parametrize("content", ["[]", "{", json.dumps({"tokenizer_class": 3}), json.dumps({"eos_token": 3})])
def test_a_damaged_tokenizer_is_one_sentence(model_folder, content):
    (model_folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(
        UserError, match=r"^the tokenizer of .*model (cannot be opened|has no end-of-sequence)"
    ) as error:
        CausalLM(str(model_folder)).tokenizer()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[]", "{", "{}", json.dumps({"base_model_name_or_path": None})])
def test_a_damaged_adapter_is_one_sentence(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=rf"^model.name={tmp_path}:? ") as error:
        CausalLM(str(tmp_path)).policy()
    assert "\n" not in str(error.value)
