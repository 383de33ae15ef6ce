"""Every kind of adapter that peft has: continued as it was opened, and merged, or refused by name."""

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForCausalLM

from lightning_dpo import DPOModule, UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO
from lightning_dpo.models import AdapterOff, Auto, CausalLM, Continue, Frozen
from lightning_dpo.models.merging import merged
from lightning_dpo.models.preparation import ready_policy
from tests.support.models import VOCABULARY, make_llama
from tests.support.pairs import padded_batch, random_pairs

BATCH = padded_batch(random_pairs(3))
QV = {"target_modules": ["q_proj", "v_proj"]}
VIRTUAL = {"num_virtual_tokens": 3}
# What the config of a kind needs besides its defaults.
OPTIONS: dict[str, dict] = {
    "PROMPT_TUNING": VIRTUAL, "P_TUNING": VIRTUAL | {"encoder_hidden_size": 8}, "PREFIX_TUNING": VIRTUAL,
    "MULTITASK_PROMPT_TUNING": VIRTUAL | {"num_tasks": 2}, "CARTRIDGE": VIRTUAL,
    "CPT": {"cpt_token_ids": [3, 4], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "ADALORA": QV | {"init_r": 4, "target_r": 2, "total_step": 9},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "OFT": QV | {"r": 0, "oft_block_size": 4}, "BOFT": QV | {"boft_block_size": 4},
    "POLY": QV | {"r": 4, "n_tasks": 2, "n_skills": 2, "n_splits": 1},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]}, "FOURIERFT": QV | {"n_frequency": 20},
    "WAVEFT": QV | {"n_frequency": 20}, "C3A": QV | {"block_size": 8}, "OSF": QV | {"effective_rank": 4},
    "VBLORA": QV | {"r": 4, "num_vectors": 16, "vector_length": 8, "topk": 2},
    "TRAINABLE_TOKENS": {"token_indices": BATCH.input_ids[0, :2].tolist()}, "ROAD": QV | {"group_size": 4},
    "ADAMSS": QV | {"r": 8, "num_subspaces": 2, "subspace_rank": 1}, "LILY": QV | {"r": 4, "stride_A": 1, "num_B": 2},
    "UNILORA": QV | {"r": 4, "theta_d_length": 64}, "SHIRA": QV | {"r": 4, "random_seed": 0},
    "SHADOW": {"r": 4}, "XLORA": {"hidden_size": 32, "adapters": {"0": "absent"}}, "BEFT": {}, "TINYLORA": QV,
    "FROD": QV, "SUPERTUNING": QV,
}  # fmt: skip
REFUSED = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT",
    "ADALORA", "LILY", "POLY", "XLORA",
}  # fmt: skip


def logps(policy) -> torch.Tensor:
    with torch.no_grad():
        return completion_logps(policy, BATCH).sums


def saved_adapter(folder, config: PeftConfig, **model_options) -> str:
    """An adapter whose weights have an effect."""
    base = make_llama(attention_bias=True, **model_options)
    base.save_pretrained(folder / "base")
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for value in policy.parameters():
            if value.requires_grad and value.is_floating_point():
                value.add_(0.05 * torch.randn_like(value))
    policy.save_pretrained(folder / "adapter")
    return str(folder / "adapter")


def config_of(kind: PeftType) -> PeftConfig:
    options = OPTIONS.get(kind.value, QV | {"r": 4})
    return PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **options)


@pytest.mark.parametrize("kind", list(PeftType), ids=lambda kind: kind.value)
def test_it_continues_as_it_was_opened_and_can_be_merged_or_it_is_refused(tmp_path, kind):
    if kind.value in REFUSED:
        config = config_of(kind)
        config.base_model_name_or_path = str(tmp_path / "base")
        make_llama().save_pretrained(tmp_path / "base")
        config.save_pretrained(tmp_path / "adapter")
        with pytest.raises(
            UserError, match=rf"adapter is an adapter of the kind {kind.value}, which is not supported: "
        ):
            CausalLM(str(tmp_path / "adapter")).policy()
        return
    if kind.value == "ADAMSS":
        pytest.importorskip("sklearn")
    source = CausalLM(saved_adapter(tmp_path, config_of(kind)))
    expected = logps(source.policy().eval())
    policy = Continue()(ready_policy(source.policy()))
    reference = Auto()(policy, DPO())
    assert reference is not None
    with reference.active() as model:
        assert torch.equal(logps(model), expected)
    assert torch.equal(logps(policy.eval()), expected)
    completion_logps(policy.train(), BATCH).sums.sum().backward()
    trained = [value for value in policy.parameters() if value.requires_grad]
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in trained)
    if kind.value == "SHADOW":
        with pytest.raises(UserError, match="peft cannot merge this SHADOW adapter"):
            merged(policy)
        return
    torch.testing.assert_close(logps(merged(policy).eval()), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "that was initialized by pissa_niter_4, which changed the weights"),
        ({"init_lora_weights": "olora"}, None),
        ({"init_lora_weights": "pissa"}, None),
        ({"trainable_token_indices": [3, 5]}, None),
        ({"target_modules": ["q_proj", "embed_tokens"]}, None),
        ({"use_dora": True}, None),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_lora_that_is_continued(tmp_path, options, message, tied):
    folder = saved_adapter(tmp_path, LoraConfig(**{**QV, "task_type": "CAUSAL_LM"} | options), tie_word_embeddings=tied)
    if message:
        with pytest.raises(UserError, match=message):
            CausalLM(folder).policy()
        return
    expected = logps(CausalLM(folder).policy().eval())
    module = DPOModule(folder, adapter=Continue())
    module.configure_model()
    assert torch.equal(logps(module.policy.eval()), expected)
    assert isinstance(module.policy, PeftModel)
    torch.testing.assert_close(logps(merged(module.policy).eval()), expected, atol=1e-4, rtol=0)


def test_biases_need_a_copy_of_the_whole_model(tmp_path):
    """peft cannot add a second adapter with biases, and disabling the adapter keeps the trained ones."""
    folder = saved_adapter(tmp_path, LoraConfig(**QV, bias="all", task_type="CAUSAL_LM"))
    cannot = {"peft cannot copy this LORA adapter for the reference": Auto(), "trains biases": AdapterOff()}
    for message, reference in cannot.items():
        module = DPOModule(folder, adapter=Continue(), reference=reference)
        with pytest.raises(UserError, match=message):
            module.configure_model()
    module = DPOModule(folder, adapter=Continue(), reference=Frozen())
    module.configure_model()
    assert module.reference is not None
    assert torch.equal(logps(module.policy.eval()), module.reference.logps(BATCH).sums)


def test_adapter_off_is_not_the_base_model_after_pissa(tmp_path):
    module = DPOModule(
        make_llama(vocab_size=VOCABULARY), adapter=lora(init_lora_weights="pissa"), reference=AdapterOff()
    )
    with pytest.raises(UserError, match="was initialized by replacing weights of the model"):
        module.configure_model()


def lora(**options):
    from lightning_dpo.models import LoRA

    return LoRA(r=4, **options)


NEW = [
    {"use_rslora": True}, {"use_dora": True}, {"init_lora_weights": "gaussian"}, {"init_lora_weights": "orthogonal"},
    {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"rank_pattern": {"q_proj": 2}},
    {"alpha_pattern": {"q_proj": 2}}, {"exclude_modules": ["q_proj"]}, {"exclude_modules": r".*layers\.0\..*"},
    {"target_modules": ["q_proj", "embed_tokens"]}, {"target_modules": ["lm_head"]},
    {"target_modules": [], "target_parameters": ["mlp.up_proj.weight"]},
]  # fmt: skip

# The adapter's output is scaled by alpha / r, with alpha = 32 and r = 4.
SCALINGS = {
    "use_rslora": {"q_proj": 16.0, "k_proj": 16.0}, "alpha_pattern": {"q_proj": 0.5, "k_proj": 8.0},
    "rank_pattern": {"q_proj": 16.0, "k_proj": 8.0}, "use_dora": {"q_proj": 8.0},
}  # fmt: skip


@pytest.mark.parametrize("options", NEW, ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_a_new_lora_starts_as_the_model_and_is_what_its_options_say(options, tied):
    llama = make_llama(tie_word_embeddings=tied)
    expected = logps(llama)
    module = DPOModule(llama, adapter=lora(**options))
    module.configure_model()
    policy, reference = module.policy, module.reference
    torch.testing.assert_close(logps(policy.eval()), expected, atol=1e-4, rtol=0)
    assert reference is not None
    torch.testing.assert_close(reference.logps(BATCH).sums, expected, atol=1e-4, rtol=0)
    optimizer = torch.optim.SGD([value for value in policy.parameters() if value.requires_grad], lr=0.01)
    completion_logps(policy.train(), BATCH).sums.sum().neg().backward()
    optimizer.step()
    changed = logps(policy.eval())
    assert not torch.allclose(changed, expected, atol=1e-3)
    torch.testing.assert_close(reference.logps(BATCH).sums, expected, atol=1e-4, rtol=0)
    names = [name for name, value in policy.named_parameters() if value.requires_grad]
    if "exclude_modules" in options:
        assert not any(
            "q_proj" in name if options["exclude_modules"] == ["q_proj"] else "layers.0." in name for name in names
        )
    if "rank_pattern" in options:
        ranks = {name.split(".")[-4]: value.shape[0] for name, value in policy.named_parameters() if "lora_A" in name}
        assert (ranks["q_proj"], ranks["k_proj"]) == (2, 4)
    layers = {name.rpartition(".")[2]: module for name, module in policy.named_modules() if hasattr(module, "scaling")}
    if scaling := SCALINGS.get(next(iter(options))):
        assert {name: layers[name].scaling["default"] for name in scaling} == scaling
    assert any("magnitude" in name for name in names) is options.get("use_dora", False)
    torch.testing.assert_close(logps(merged(policy).eval()), changed, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank_pattern": {"q_porj": 2}}, "adapter: The following rank_pattern keys did not match any targeted module"),
        ({"alpha_pattern": {"q_porj": 2}}, "adapter: The following alpha_pattern keys did not match"),
        ({"exclude_modules": ["q_porj"]}, "adapter: You have passed exclude_modules=.* but no modules were excluded"),
        ({"target_parameters": ["up_porj.weight"]}, "adapter: target_parameters=.* no parameter was matched"),
        ({"target_modules": ["q_porj"]}, "adapter: Target modules .* not found"),
    ],
)
def test_a_name_that_matches_nothing_is_an_error(options, message):
    with pytest.raises(UserError, match=message):
        lora(**options)(make_llama())


def test_an_initialization_that_needs_more_than_weights_is_refused():
    with pytest.raises(ValueError, match="init_lora_weights must be one of true, gaussian, orthogonal, pissa, olora"):
        lora(init_lora_weights="eva")
