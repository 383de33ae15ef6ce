"""Training an adapter: where it starts, what a checkpoint holds, what an export is."""

import copy
import math

import lightning
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks import LastCheckpoint
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO
from lightning_dpo.models.adapter import Continue, NoAdapter
from lightning_dpo.models.adapter_kinds import is_untrained
from lightning_dpo.models.adapter_switching import copy_adapter, with_copy, without_adapter
from lightning_dpo.models.causal_lm import CausalLM
from lightning_dpo.models.lora import LoRA
from lightning_dpo.models.reference_factories import AdapterOff, Auto, Frozen
from lightning_dpo.runs.exports import export
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs
from tests.support.training import trainer_for


class Losses(lightning.Callback):
    """Collects the loss of every step."""

    def __init__(self) -> None:
        self.values = []

    def on_train_batch_end(self, trainer, *_):
        self.values.append(float(trainer.callback_metrics["train/loss"]))


def fit(folder, pairs_file, tokenizer, policy=None, callbacks=(), **options):
    torch.manual_seed(3)
    module = DPOModule(policy or make_llama(attention_dropout=0.1), DPO(0.3), optimizer=sgd, **options)
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=4, val_fraction=0.2)
    losses = Losses()
    trainer = trainer_for(folder, callbacks=[losses, *callbacks])
    trainer.fit(module, data)
    return module, losses.values, trainer


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def test_training_starts_at_ln_2_with_dropout_in_adapter_and_model(tmp_path, pairs_file, tokenizer):
    module, losses, _ = fit(tmp_path, pairs_file, tokenizer, adapter=LoRA(r=4, dropout=0.2))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] != losses[0]
    assert module.policy.get_base_model().config.attention_dropout == 0
    dropouts = {value.p for layer in module.policy.modules() for value in getattr(layer, "lora_dropout", {}).values()}
    assert dropouts == {0.2}
    assert isinstance(module.reference.policy, PeftModel)
    assert module.reference.model is None


def test_one_model_in_memory_gives_the_losses_of_two(tmp_path, pairs_file, tokenizer):
    losses = [
        fit(tmp_path, pairs_file, tokenizer, adapter=LoRA(r=4), reference=reference)[1]
        for reference in (AdapterOff(), Frozen())
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0][-1] != pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("modules_to_save", [None, ["lm_head"]])
def test_a_checkpoint_holds_what_is_trained_and_nothing_else(tmp_path, pairs_file, tokenizer, modules_to_save):
    """Below twice the adapter's bytes, SGD having no state; and it loads, into a policy that is made anew."""
    adapter = LoRA(r=4, modules_to_save=modules_to_save)
    keep = LastCheckpoint(str(tmp_path), every_n_steps=100)
    module, _, _ = fit(tmp_path, pairs_file, tokenizer, adapter=adapter, callbacks=[keep])
    trained = {name: value for name, value in module.policy.named_parameters() if value.requires_grad}
    size = sum(value.numel() * value.element_size() for value in trained.values())
    assert (tmp_path / "last.ckpt").stat().st_size < 2 * size + 20_000 * (modules_to_save is None)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {f"policy.{name}" for name in trained}
    again = DPOModule.load_from_checkpoint(tmp_path / "last.ckpt", policy=make_llama(), loss=DPO(0.3), adapter=adapter)
    batch = padded_batch(random_pairs(4))
    expected, actual = (completion_logps(one.policy.eval(), batch).sums for one in (module, again))
    assert torch.equal(actual, expected)


def test_a_checkpoint_of_another_adapter_is_rejected(tmp_path, pairs_file, tokenizer):
    fit(tmp_path, pairs_file, tokenizer, adapter=LoRA(r=4), callbacks=[LastCheckpoint(str(tmp_path))])
    others = {
        r"the checkpoint has another model or adapter": LoRA(r=4, target_modules=["q_proj"]),
        r"trained with adapter\.r 4 instead of 8: use the same model": LoRA(r=8),
        r"adapter\.alpha 32 instead of 64": LoRA(r=4, alpha=64),
    }
    for message, other in others.items():
        with pytest.raises(UserError, match=message):
            DPOModule.load_from_checkpoint(tmp_path / "last.ckpt", policy=make_llama(), loss=DPO(0.3), adapter=other)


def greedy(model) -> list[int]:
    ids = torch.tensor([[5, 6, 7, 8]])
    return model.eval().generate(ids, attention_mask=ids != 0, do_sample=False, max_new_tokens=12)[0].tolist()


def test_exports_open_in_plain_peft_and_plain_transformers(tmp_path, model_folder, tokenizer):
    policy = LoRA(r=4)(CausalLM(str(model_folder)).policy())
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    copy_adapter(policy)  # stays at home
    batch = padded_batch(random_pairs(4))
    expected, words = completion_logps(policy.eval(), batch).sums.detach(), greedy(policy)
    keys = set(get_peft_model_state_dict(policy, adapter_name="default", save_embedding_layers=False))
    export(policy, tokenizer, tmp_path / "export", "card")
    assert not (tmp_path / "export" / "reference").exists()
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), tmp_path / "export")
    assert set(get_peft_model_state_dict(opened, save_embedding_layers=False)) == keys
    by_name = CausalLM(str(tmp_path / "export"))
    assert by_name.base() == str(model_folder)
    merged = NoAdapter()(by_name.policy())
    export(merged, tokenizer, tmp_path / "merged", "card")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    for model in (opened, plain):
        torch.testing.assert_close(completion_logps(model.eval(), batch).sums, expected, rtol=0, atol=1e-4)
        assert greedy(model) == words
    assert (tmp_path / "export" / "README.md").read_text() == "card"


def test_an_adapter_that_resumes_is_compared_with_what_it_was(tmp_path, pairs_file, tokenizer, model_folder):
    policy = LoRA(r=4, dropout=0.1)(CausalLM(str(model_folder)).policy())
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    export(policy, tokenizer, tmp_path / "export", "card")
    batch = padded_batch(random_pairs(4))
    before = completion_logps(policy.eval(), batch).sums.detach()
    name = str(tmp_path / "export")
    module, losses, _ = fit(tmp_path, pairs_file, tokenizer, policy=name, adapter=Continue())
    # Its dropout makes the first loss differ from ln 2 a little; without, it is that.
    assert losses[0] == pytest.approx(math.log(2), abs=0.1)
    torch.testing.assert_close(module.reference.logps(batch).sums, before, rtol=0, atol=1e-5)
    assert not torch.allclose(completion_logps(module.policy.eval(), batch).sums, before)
    copies = [value for name, value in module.policy.named_parameters() if "reference" in name]
    assert copies
    assert not any(value.requires_grad for value in copies)


def test_a_policy_that_is_a_peft_model_needs_no_adapter_of_ours(tmp_path, pairs_file, tokenizer):
    theirs = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    _, losses, _ = fit(tmp_path, pairs_file, tokenizer, policy=theirs)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    reference = Auto()(copy.deepcopy(theirs), DPO())
    assert reference.switched is not without_adapter, "it is trained by now"


def test_an_adapter_of_another_name_or_kind(tmp_path, pairs_file, tokenizer):
    """A trained one by another name has a copy; of one that is no LoRA, nothing says that it is new."""
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    named = get_peft_model(make_llama(), config, adapter_name="mine")
    with torch.no_grad():
        for name, value in named.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    module, losses, _ = fit(tmp_path, pairs_file, tokenizer, policy=named)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert module.reference.switched is with_copy
    kinds = get_peft_model(make_llama(), IA3Config(task_type="CAUSAL_LM"))
    assert not is_untrained(kinds)


def test_a_policy_of_which_nothing_is_trained(tmp_path, pairs_file, tokenizer):
    with pytest.raises(UserError, match=r"the policy has no trainable parameters; .* adapter=Continue\(\)"):
        fit(tmp_path, pairs_file, tokenizer, policy=make_llama().requires_grad_(False))
