import json
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.data.sources import hh_pair
from lightning_dpo.logps.forward import ATTENTION
from lightning_dpo.shared_prefix.trial import share_prefixes
from tests.support.architectures import ARCHITECTURES, UNSHARED, make
from tests.support.models import make_llama
from tests.support.pairs import HH_FILE, padded_batch, pairs_of_shared_prompts, shared_batch, shares_prompts

PAIRS = pairs_of_shared_prompts()
REASONS = {
    "gpt_oss": "GptOssForCausalLM: its attention uses s_aux, which the shared layout does not support",
    "bloom": "BloomForCausalLM: its attention does not go through transformers' AttentionInterface",
    "falcon": "FalconForCausalLM: its attention does not go through transformers' AttentionInterface",
    "stablelm": "StableLmForCausalLM: its attention layers do not receive the arguments of the model's forward pass",
    "llama4_text": "Llama4ForCausalLM: it has layers of chunked_attention, which would mix completions",
}


def why_not(*models, precision="32-true") -> str | None:
    return share_prefixes(models, padded_batch(PAIRS), shared_batch(PAIRS), precision)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_that_share_prompts(architecture):
    policy, reference = make(architecture), make(architecture)
    assert why_not(policy, reference) is None
    assert {model.config._attn_implementation for model in (policy, reference)} == {ATTENTION}
    assert policy.training


@pytest.mark.parametrize("architecture", UNSHARED)
def test_architectures_that_do_not_report_why_and_stay_as_they_are(architecture):
    model = make(architecture)
    before = model.config._attn_implementation
    assert why_not(model) == REASONS[architecture]
    assert model.config._attn_implementation == before


def test_an_attention_that_was_asked_for_is_kept(llama):
    llama.set_attn_implementation("eager")
    reason = "LlamaForCausalLM: its attention is eager, and the shared layout replaces it: set model.attention=sdpa"
    assert why_not(llama) == reason
    assert llama.config._attn_implementation == "eager"


def test_a_model_whose_log_probs_would_change_is_found_out_by_trying_it():
    """It looks at the place of a token in its row, and not at its position."""

    class Placed(Qwen2ForCausalLM):
        def forward(self, input_ids, position_ids=None, **kwargs):
            return super().forward(input_ids, position_ids=torch.arange(input_ids.shape[1])[None], **kwargs)

    torch.manual_seed(0)
    model = Placed(Qwen2Config(**{**make_llama().config.to_dict(), "model_type": "qwen2", "architectures": None}))
    assert why_not(model).startswith("Placed: its log-probs differ by ")
    assert model.config._attn_implementation == "sdpa"


def run(folder: Path, pairs, tokenizer, model, layout: str, steps: int = -1, precision="32-true", lr=0.05, **options):
    """Train for an epoch, or for fewer steps; the losses, the validation metrics, and the data module."""
    options = {"val_fraction": 0.3, "batch_size": 4, "max_length": 128} | options
    data = PreferenceDataModule(str(pairs), tokenizer=tokenizer, layout=layout, **options)
    losses = []
    note = LambdaCallback(
        on_train_batch_end=lambda trainer, *_: losses.append(float(trainer.callback_metrics["train/loss"]))
    )
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, max_steps=steps, precision=precision, callbacks=[note], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(DPOModule(model, optimizer=lambda weights: torch.optim.SGD(weights, lr=lr)), data)
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return losses, values, data


def test_a_plain_trainer_shares_prompts_by_itself_and_learns_the_same(tmp_path, pairs_file, tokenizer):
    padded, shared = (run(tmp_path, pairs_file, tokenizer, make_llama(), layout) for layout in ("padded", "auto"))
    assert not shares_prompts(padded[2])
    assert shares_prompts(shared[2])
    assert shared[0] == pytest.approx(padded[0], rel=1e-5)
    assert shared[1] == pytest.approx(padded[1], rel=1e-4, abs=1e-5)
    assert len(padded[0]) == 4


def test_a_model_whose_gradients_would_change_is_found_out_too():
    class Doubled(LlamaForCausalLM):
        def forward(self, *args, segments=None, **kwargs):
            if segments is None:
                return super().forward(*args, **kwargs)
            hook = self.model.norm.register_forward_hook(lambda module, args, output: 2 * output - output.detach())
            try:
                return super().forward(*args, segments=segments, **kwargs)
            finally:
                hook.remove()

    assert why_not(Doubled(make_llama().config)).startswith("Doubled: its gradients differ between the two layouts")


def test_the_reason_names_the_model_that_has_it(llama):
    assert why_not(llama, make("stablelm")) == REASONS["stablelm"]
    assert llama.config._attn_implementation == "sdpa"


@pytest.mark.skipif(not HH_FILE.exists(), reason="the HH file is not beside this checkout")
def test_the_first_eight_losses_on_hh_are_those_of_padded_rows(tmp_path, tokenizer):
    """Real prompts, of hundreds of tokens; steps large enough that the losses move, and small enough for no chaos."""
    options = {
        "source": hh_pair,
        "on_invalid": "drop",
        "max_pairs": 200,
        "max_length": 600,
        "batch_size": 8,
        "lr": 0.002,
    }
    padded, shared = (
        run(tmp_path, HH_FILE, tokenizer, make_llama(), layout, steps=8, **options)[0]
        for layout in ("padded", "shared")
    )
    assert shared == pytest.approx(padded, rel=1e-5, abs=1e-5)
    assert len(set(padded)) == len(padded) == 8


def test_bf16_learns_nearly_the_same(tmp_path, pairs_file, tokenizer):
    padded, shared = (
        run(tmp_path, pairs_file, tokenizer, make_llama(), layout, precision="bf16-mixed")
        for layout in ("padded", "auto")
    )
    assert shares_prompts(shared[2])
    assert shared[0] == pytest.approx(padded[0], abs=0.02)
    assert max(padded[0]) - min(padded[0]) > 0.3


def test_auto_uses_padded_rows_with_one_line_and_shared_is_an_error(tmp_path, pairs_file, tokenizer, caplog):
    *_, data = run(tmp_path, pairs_file, tokenizer, make("falcon"), "auto")
    assert not shares_prompts(data)
    assert [line for line in caplog.messages if "layout" in line] == [
        f"Prompts are not shared, but processed once per answer (data.layout=padded). Reason: {REASONS['falcon']}."
    ]
    with pytest.raises(UserError, match=r"^data.layout=shared: FalconForCausalLM: .*; use data.layout=padded$"):
        run(tmp_path, pairs_file, tokenizer, make("falcon"), "shared")


def test_validation_outside_fit_shares_prompts_too(tmp_path, pairs_file, tokenizer):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, val_fraction=0.3, batch_size=4)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.validate(DPOModule(make_llama()), data, verbose=False)
    assert shares_prompts(data)


def test_an_export_knows_nothing_of_it(tmp_path, pairs_file, tokenizer):
    model = make_llama()
    run(tmp_path, pairs_file, tokenizer, model, "shared")
    model.save_pretrained(tmp_path / "export")
    assert ATTENTION not in json.dumps(json.loads((tmp_path / "export" / "config.json").read_text()))
