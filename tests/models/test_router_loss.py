"""The router loss of mixture-of-experts models against transformers' own."""

import pytest
import torch
from lightning import Trainer
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_dpo import DPOModule
from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.models import AdapterOff, CausalLM, LoRA
from lightning_dpo.models.causal_lm import OpensPolicy
from lightning_dpo.models.digests import weights_digest
from lightning_dpo.models.generation import Writer
from lightning_dpo.models.router_loss import RouterLoss, coefficient_of, set_coefficient
from tests.support.models import SMALL, make_llama
from tests.support.pairs import padded_batch, random_pairs, shared_batch

MOE = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def make_moe(model_type: str, **options):
    torch.manual_seed(0)
    settings = SMALL | MOE[model_type] | {"router_aux_loss_coef": 0.1} | options
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))


def transformers_value(policy, batch) -> torch.Tensor:
    mask = torch.zeros_like(batch.input_ids)
    for row, length in enumerate(batch.row_lengths.tolist()):
        mask[row, :length] = 1
    return policy(input_ids=batch.input_ids, attention_mask=mask, output_router_logits=True).aux_loss


def recorded(policy, batch) -> RouterLoss:
    routers = RouterLoss()
    with routers.recording(policy):
        completion_logps(policy, batch)
    return routers


@pytest.mark.parametrize("model_type", MOE)
@pytest.mark.parametrize("wrap", [lambda policy: policy, LoRA(r=2)], ids=["full", "lora"])
def test_it_equals_that_of_transformers_in_the_padded_layout(model_type, wrap):
    policy, batch = wrap(make_moe(model_type)), padded_batch(random_pairs(5))
    expected = transformers_value(policy, batch)
    routers = recorded(policy, batch)
    term = routers.term(policy, batch)
    torch.testing.assert_close(term, 0.1 * expected)
    torch.testing.assert_close(routers.value()["train/router_loss"], expected.detach())
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for mine, theirs in zip(
        *(torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (term, 0.1 * expected)), strict=True
    ):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_routers_with_recomputed_activations_too(checkpointing):
    policy, batch = make_moe("qwen3_moe").train(), padded_batch(random_pairs(5))
    if checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    recorded(policy, batch).term(policy, batch).backward()
    gradients = [parameter.grad for name, parameter in policy.named_parameters() if "gate.weight" in name]
    assert len(gradients) == 2
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_prompt_counts_once_in_the_shared_layout():
    """With one completion of each prompt, both layouts have the same tokens; with two, the shared one has fewer."""
    import lightning_dpo.shared_prefix.attention  # noqa: F401  registers it

    policy, pairs = make_moe("mixtral"), random_pairs(3)
    for chosen_only, same in ((True, True), (False, False)):
        padded, shared = (make(pairs, chosen_only=chosen_only) for make in (padded_batch, shared_batch))
        expected = 0.1 * transformers_value(policy, padded)
        policy.set_attn_implementation("shared_prefix")
        found = recorded(policy, shared).term(policy, shared)
        policy.set_attn_implementation("sdpa")
        assert torch.allclose(found, expected) is same


def test_micro_batches_count_by_their_pairs():
    policy, pairs = make_moe("mixtral"), random_pairs(6)
    routers, terms, losses = RouterLoss(), [], []
    for part in (pairs[:4], pairs[4:]):
        batch = padded_batch(part)
        losses.append(transformers_value(policy, batch) * len(part))
        batch.step_pairs.fill_(6)
        with routers.recording(policy):
            completion_logps(policy, batch)
        terms.append(routers.term(policy, batch))
    torch.testing.assert_close(routers.value()["train/router_loss"], sum(losses).detach() / 6)
    torch.testing.assert_close(sum(terms), 0.1 * sum(losses) / 6)


@pytest.mark.parametrize("reference", [None, AdapterOff()], ids=["frozen copy", "adapter off"])
@pytest.mark.parametrize("coefficient", [0.1, 0.0])
def test_training_logs_it_and_a_coefficient_of_0_switches_it_off(
    tmp_path, pairs_file, tokenizer, reference, coefficient
):
    from lightning.pytorch.loggers import CSVLogger

    from lightning_dpo import PreferenceDataModule

    policy = make_moe("qwen3_moe", vocab_size=len(tokenizer), router_aux_loss_coef=coefficient)
    module = DPOModule(policy, adapter=LoRA(r=2) if reference else None, reference=reference)
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=4, val_fraction=0.2)
    logger = CSVLogger(tmp_path)
    trainer = Trainer(
        max_steps=2, logger=logger, enable_checkpointing=False, log_every_n_steps=1, enable_progress_bar=False
    )
    trainer.fit(module, data)
    assert ("train/router_loss" in logger.experiment.metrics_keys) is bool(coefficient)


def test_the_flag_of_the_config_does_not_break_sampling():
    """transformers' own `generate` fails with it for prompts of unequal length."""
    policy = make_moe("qwen3_moe", output_router_logits=True).eval()
    writer = Writer(frozenset({1}), 1, 4, greedy=True)
    plain = make_moe("qwen3_moe").eval()
    prompts = [[5, 6, 7], [8]]
    assert writer.answers(policy, prompts) == writer.answers(plain, prompts)


def test_a_model_without_routers_has_no_router_loss(model_folder):
    policy, batch = make_llama(), padded_batch(random_pairs(3))
    assert coefficient_of(policy) == 0
    routers = recorded(policy, batch)
    assert (routers.term(policy, batch), routers.value()) == (0.0, {})
    source: OpensPolicy = CausalLM(str(model_folder), router_loss_coef=0.0)
    with pytest.raises(UserError, match=r"model.router_loss_coef has no effect: LlamaForCausalLM has no router loss"):
        source.policy()


def test_a_key_replaces_the_coefficient():
    policy = make_moe("mixtral")
    for coefficient in (0.5, 0):
        set_coefficient(policy, coefficient)
        assert coefficient_of(policy) == policy.config.router_aux_loss_coef == coefficient
    with pytest.raises(ValueError, match="router_loss_coef must be a number of at least 0, got -1"):
        CausalLM("x", router_loss_coef=-1)


def test_the_digest_of_a_base_with_fused_experts_does_not_change_with_an_adapter():
    policy = make_moe("mixtral")
    digest = weights_digest(policy)
    assert weights_digest(LoRA(r=2)(policy)) == digest
