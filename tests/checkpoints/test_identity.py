"""The resume matrix: each thing that a training depends on is changed, one at a time, before a run resumes."""

import copy
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lightning_dpo import DPO, IPO, DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks import BestCheckpoint, LastCheckpoint
from lightning_dpo.models import LoRA
from lightning_dpo.training import warmup_constant, warmup_cosine
from tests.support.models import make_llama

COSINE = partial(warmup_cosine, warmup_steps=1)
MODULE = ("loss", "adapter", "scheduler", "resume_allow", "reference")
DATA = ("batch_size", "pairs_per_step", "seed", "layout", "num_workers", "max_length", "max_tokens", "group_by_prompt")


class Stops(lightning.Callback):
    """Raises before the third of four steps."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            raise KeyError("stop")


def fit(
    folder: Path, pairs: Path, tokenizer: Any, stops: bool = False, resumed: bool = False, **options
) -> torch.Tensor:
    """Train four steps, or two if it stops, and return all weights of the policy."""
    policy = options.pop("policy", None) or make_llama(attention_dropout=0.0, **options.pop("config", {}))
    if options.pop("checkpointing", False):
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    make = partial(options.pop("optimizer", torch.optim.AdamW), **{"lr": 1e-2} | options.pop("adamw", {}))
    of_module = {name: options.pop(name) for name in MODULE if name in options}
    module = DPOModule(policy, optimizer=make, **{"scheduler": COSINE} | of_module)
    of_data = {name: options.pop(name) for name in DATA if name in options}
    data = PreferenceDataModule(str(pairs), tokenizer=tokenizer, val_fraction=0.2, **{"batch_size": 5} | of_data)
    trainer = lightning.Trainer(
        **{"max_epochs": 1, "logger": False, "accelerator": "cpu", "enable_progress_bar": False} | options,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[LastCheckpoint(str(folder)), *[Stops()] * stops],
    )  # fmt: skip
    torch.manual_seed(0)
    last = str(folder / "last.ckpt") if resumed else None
    if stops:
        with pytest.raises(KeyError):
            trainer.fit(module, data, ckpt_path=last, weights_only=True)
    else:
        trainer.fit(module, data, ckpt_path=last, weights_only=True)
    return torch.nn.utils.parameters_to_vector(module.policy.parameters()).detach()


STEPS = r"optimizer steps of the run \(trainer.max_epochs, trainer.max_steps\) 4 instead of 12"
WAIVABLE = {
    "learning rate": ("optimizer", {"adamw": {"lr": 1e-3}}, r"optimizer\.lr 0\.01 instead of 0\.001"),
    "weight decay": ("optimizer", {"adamw": {"weight_decay": 0.5}}, r"optimizer\.weight_decay 0\.01 instead of 0\.5"),
    "betas": ("optimizer", {"adamw": {"betas": (0.5, 0.9)}}, r"optimizer\.betas \[0\.9, 0\.999\] instead of \[0\.5, 0"),
    "schedule": ("scheduler", {"scheduler": warmup_constant}, r"scheduler warmup_cosine\(warmup_steps=1\) instead"),
    "warm-up": ("scheduler", {"scheduler": partial(warmup_cosine, warmup_steps=3)}, "scheduler .* instead of .*=3"),
    "length of the run": ("scheduler", {"max_epochs": 3}, STEPS),
    "precision": ("precision", {"precision": "bf16-mixed"}, r"trainer\.precision 32-true instead of bf16-mixed"),
    "clipping": ("clipping", {"gradient_clip_val": 0.01}, r"trainer\.gradient_clip_val None instead of 0\.01"),
    "beta": ("loss", {"loss": DPO(beta=0.3)}, r"loss DPO\(beta=0\.1.*instead of DPO\(beta=0\.3"),
    "loss": ("loss", {"loss": IPO()}, "loss DPO.*instead of IPO"),
    "layout": ("layout", {"layout": "padded"}, r"data\.layout shared instead of padded"),
    "model config": ("model", {"config": {"rms_norm_eps": 0.1}}, r"model\.rms_norm_eps 1e-06 instead of 0\.1"),
    "attention": ("model", {"config": {"attn_implementation": "eager"}}, r"model\.attention sdpa instead of eager"),
    "weights": ("weights", {"config": {"seed": 1}}, r"starting weights \(sha256\) \w{12} instead of \w{12}"),
}  # fmt: skip
REJECTED = {
    "optimizer": ({"optimizer": torch.optim.RMSprop}, "optimizer AdamW instead of RMSprop"),
    "batch size": ({"batch_size": 4}, r"data\.batch_size 5 instead of 4"),
    "pairs per step": (
        {"pairs_per_step": 10, "accumulate_grad_batches": 2},
        r".*data\.pairs_per_step None instead of",
    ),
    "order": ({"seed": 1}, r"data\.seed 0 instead of 1"),
    "accumulation": ({"accumulate_grad_batches": 2}, "accumulate_grad_batches 1 instead of 2"),
    "grouping": ({"group_by_prompt": True}, r"data\.group_by_prompt False instead of True"),
    "adapter": ({"adapter": LoRA(r=2)}, "adapter none instead of LORA"),
}


@pytest.fixture
def stopped(tmp_path, pairs_file, tokenizer) -> Path:
    folder = tmp_path / "stopped"
    fit(folder, pairs_file, tokenizer, stops=True)
    return folder


@pytest.mark.parametrize("name", WAIVABLE)
def test_a_changed_setting_is_rejected_or_has_an_effect(tmp_path, stopped, pairs_file, tokenizer, name):
    kind, change, message = WAIVABLE[name]
    message += rf".*: restore the old values, start a new run, or set resume.allow=\[{kind}\] to continue"
    with pytest.raises(UserError, match=f"the checkpoint was trained with {message}"):
        fit(stopped, pairs_file, tokenizer, resumed=True, **change)
    shutil.copytree(stopped, tmp_path / "unchanged")
    unchanged = fit(tmp_path / "unchanged", pairs_file, tokenizer, resumed=True)
    changed = fit(stopped, pairs_file, tokenizer, resumed=True, resume_allow=[kind, "layout"], **change)
    # Eager attention does not support shared prompts, so it changes the layout as well.
    assert name == "layout" or not torch.equal(changed, unchanged)  # layouts differ by rounding, if at all


@pytest.mark.parametrize("name", REJECTED)
def test_what_defines_the_position_in_an_epoch_cannot_be_waived(stopped, pairs_file, tokenizer, name):
    change, message = REJECTED[name]
    with pytest.raises(UserError, match=f"trained with {message}.*: restore the old values, or start a new run$"):
        fit(stopped, pairs_file, tokenizer, resumed=True, **change)


@pytest.mark.parametrize(
    "change", [{"num_workers": 1}, {"checkpointing": True}, {"max_length": 512}, {"max_tokens": 10**6}]
)
def test_settings_without_effect_on_the_weights(tmp_path, stopped, pairs_file, tokenizer, change):
    straight = fit(tmp_path / "straight", pairs_file, tokenizer)
    assert torch.equal(fit(stopped, pairs_file, tokenizer, resumed=True, **change), straight)


@pytest.mark.parametrize("change", [{"adamw": {"lr": 1e-3}}, {"scheduler": partial(warmup_cosine, warmup_steps=3)}])
def test_a_new_schedule_continues_where_it_would_be_without_the_change(tmp_path, pairs_file, tokenizer, change):
    folder, rates = tmp_path / "run", []
    fit(folder, pairs_file, tokenizer, stops=True)
    fit(folder, pairs_file, tokenizer, resumed=True, resume_allow=["optimizer", "scheduler"], **change)
    fit(tmp_path / "other", pairs_file, tokenizer, **change)
    for name in ("run", "other"):
        saved = torch.load(tmp_path / name / "last.ckpt", weights_only=True)
        rates.append((saved["optimizer_states"][0]["param_groups"][0]["lr"], saved["lr_schedulers"][0]["last_epoch"]))
    assert rates[0] == rates[1]


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (LoRA(r=2, dropout=0.5), r"adapter\.dropout 0\.0 instead of 0\.5: .*resume.allow=.adapter."),
        (LoRA(r=2, alpha=64), r"adapter\.alpha 32 instead of 64: .*resume.allow=.adapter."),
        (LoRA(r=4), r"adapter\.r 2 instead of 4: restore the old values, or start a new run"),
        (
            LoRA(r=2, target_modules=["q_proj", "v_proj", "embed_tokens"]),
            "another model or adapter: 2 tensors are only in",
        ),
    ],
)
def test_another_adapter(tmp_path, pairs_file, tokenizer, adapter, message):
    fit(tmp_path, pairs_file, tokenizer, stops=True, adapter=LoRA(r=2, target_modules=["q_proj", "v_proj"]))
    with pytest.raises(UserError, match=message):
        fit(tmp_path, pairs_file, tokenizer, resumed=True, adapter=adapter)


@pytest.mark.parametrize("adapter", [None, LoRA(r=2)])
def test_other_weights_in_the_same_folder(tmp_path, model_folder, pairs_file, tokenizer, adapter):
    """They are the reference or the base of the adapter, and the checkpoint contains neither."""
    policy = str(model_folder)
    fit(tmp_path, pairs_file, tokenizer, stops=True, policy=policy, adapter=adapter)
    shutil.copytree(model_folder, tmp_path / "moved")
    fit(tmp_path, pairs_file, tokenizer, resumed=True, policy=str(tmp_path / "moved"), adapter=adapter)
    make_llama(seed=1).save_pretrained(model_folder)
    with pytest.raises(UserError, match=r"trained with starting weights \(sha256\) \w{12} instead of \w{12}: restore"):
        fit(tmp_path, pairs_file, tokenizer, resumed=True, policy=policy, adapter=adapter)


def swapped(rows: list[dict]) -> list[dict]:
    """The same pairs with the preferences reversed: as many, of the same lengths."""
    return [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]


@pytest.mark.parametrize("change", [swapped, lambda rows: rows[:-6]])
def test_other_pairs_in_the_same_file(stopped, pairs_file, tokenizer, change):
    rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    with pytest.raises(UserError, match=r"set of training pairs \(sha256\) \w+ instead of \w+: .*resume.allow=.data."):
        fit(stopped, pairs_file, tokenizer, resumed=True)
    fit(stopped, pairs_file, tokenizer, resumed=True, resume_allow=["data", "scheduler"])


def exchanged(tokenizer) -> PreTrainedTokenizerFast:
    """Two tokens have each other's id."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    tokens = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<|end|>", pad_token="<|end|>")


def with_template(tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = "{{ messages }}"
    return tokenizer


def with_unknown(tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.unk_token = "a"
    return tokenizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (exchanged, "tokenizer"),
        (with_template, "chat template"),
        (with_unknown, "special tokens of the tokenizer"),
    ],
)
def test_another_tokenizer(stopped, pairs_file, tokenizer, change, message):
    with pytest.raises(
        UserError, match=rf"trained with .*{message} \(sha256\) \w+ instead of \w+.*resume.allow=.*tokenizer"
    ):
        fit(stopped, pairs_file, change(copy.deepcopy(tokenizer)), resumed=True)


def test_a_constant_rate_may_continue_for_longer(tmp_path, pairs_file, tokenizer):
    """As long as one run of that length would have taken."""
    straight = fit(tmp_path / "once", pairs_file, tokenizer, scheduler=warmup_constant, max_epochs=3)
    fit(tmp_path / "twice", pairs_file, tokenizer, scheduler=warmup_constant)
    longer = fit(tmp_path / "twice", pairs_file, tokenizer, resumed=True, scheduler=warmup_constant, max_epochs=3)
    assert torch.equal(longer, straight)


def test_an_unknown_kind_is_rejected_before_anything_is_loaded():
    with pytest.raises(UserError, match=r"resume.allow: 'order' is not one of weights, model, tokenizer"):
        DPOModule("nowhere", resume_allow=["order"])
    with pytest.raises(UserError, match=r"resume.allow=data must be a list: \[data\]"):
        DPOModule("nowhere", resume_allow="data")


def test_weights_alone_cannot_be_resumed(tmp_path, pairs_file, tokenizer):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=5, val_fraction=0.2)
    best = BestCheckpoint(str(tmp_path), "val/loss", "min")
    options = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 1}
    lightning.Trainer(**options, callbacks=[best]).fit(DPOModule(make_llama()), data)
    with pytest.raises(UserError, match=r"contains only weights, as best.ckpt does: resume from last.ckpt"):
        lightning.Trainer(**options).fit(
            DPOModule(make_llama()), data, ckpt_path=tmp_path / "best.ckpt", weights_only=True
        )


def test_to_validate_a_checkpoint_needs_no_training_pairs(tmp_path, pairs_file, tokenizer):
    fit(tmp_path, pairs_file, tokenizer)
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=2, val_path=str(pairs_file))
    trainer = lightning.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    (metrics,) = trainer.validate(DPOModule(make_llama()), data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert metrics["val/rewards/margins"] != 0
