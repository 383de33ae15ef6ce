"""A run that resumes with something else than the checkpoint was trained with is refused, and says what differs."""

import json
import shutil
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks.checkpoints import LastCheckpoint
from lightning_dpo.models.adapter import LoRA
from lightning_dpo.training.schedules import warmup_constant, warmup_cosine
from tests.support.models import make_llama

COSINE = partial(warmup_cosine, warmup_steps=1)


def fit(folder: Path, policy, pairs, tokenizer, resumed: bool = False, epochs: int = 1, **options) -> None:
    """Four optimizer steps an epoch."""
    optimizer = partial(torch.optim.AdamW, **{"lr": 1e-3} | options.pop("adamw", {}))
    module = DPOModule(policy, **{"optimizer": optimizer, "scheduler": COSINE} | options)
    data = PreferenceDataModule(str(pairs), tokenizer=tokenizer, batch_size=5, val_fraction=0.2)
    trainer = lightning.Trainer(
        max_epochs=epochs, logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=[LastCheckpoint(str(folder))],
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(module, data, ckpt_path=str(folder / "last.ckpt") if resumed else None, weights_only=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adamw": {"lr": 1e-5}}, r"optimizer\.lr 0\.001 instead of 1e-05: restore the setting, or start a new run"),
        ({"adamw": {"weight_decay": 0.5}}, r"optimizer\.weight_decay 0\.01 instead of 0\.5"),
        ({"adamw": {"betas": (0.5, 0.9)}}, r"optimizer\.betas \[0\.9, 0\.999\] instead of \[0\.5, 0\.9\]"),
        ({"optimizer": partial(torch.optim.RMSprop, lr=1e-3)}, "optimizer AdamW instead of RMSprop"),
        ({"scheduler": warmup_constant}, r"scheduler warmup_cosine\(warmup_steps=1\) instead of warmup_constant\(\)"),
        ({"scheduler": partial(warmup_cosine, warmup_steps=2)}, r"scheduler .* instead of .*warmup_steps=2"),
        ({"epochs": 3}, r"optimizer steps of the run \(trainer.max_epochs, trainer.max_steps\) 4 instead of 12"),
    ],
)
def test_settings_that_the_checkpoint_would_overrule(tmp_path, pairs_file, tokenizer, change, message):
    fit(tmp_path, make_llama(), pairs_file, tokenizer)
    with pytest.raises(UserError, match=f"the checkpoint was trained with {message}"):
        fit(tmp_path, make_llama(), pairs_file, tokenizer, resumed=True, **change)


def test_a_constant_rate_may_continue_for_longer(tmp_path, pairs_file, tokenizer):
    """As long as one run of that length would have gone."""
    for name, first in (("once", 3), ("twice", 1)):
        fit(tmp_path / name, make_llama(), pairs_file, tokenizer, scheduler=warmup_constant, epochs=first)
    fit(tmp_path / "twice", make_llama(), pairs_file, tokenizer, resumed=True, scheduler=warmup_constant, epochs=3)
    weights = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("once", "twice")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("adapter", [None, LoRA(r=2)])
def test_other_weights_in_the_same_folder(tmp_path, model_folder, pairs_file, tokenizer, adapter):
    """They are the reference, or what is under the adapter, and the checkpoint has neither."""
    fit(tmp_path, str(model_folder), pairs_file, tokenizer, adapter=adapter)
    fit(tmp_path, str(model_folder), pairs_file, tokenizer, resumed=True, adapter=adapter)
    make_llama(seed=1).save_pretrained(model_folder)
    with pytest.raises(UserError, match=r"trained with starting weights \(sha256\) \w{12} instead of \w{12}: restore"):
        fit(tmp_path, str(model_folder), pairs_file, tokenizer, resumed=True, adapter=adapter)


def test_the_same_weights_in_another_folder(tmp_path, model_folder, pairs_file, tokenizer):
    fit(tmp_path, str(model_folder), pairs_file, tokenizer, adapter=LoRA(r=2))
    shutil.copytree(model_folder, tmp_path / "moved")
    fit(tmp_path, str(tmp_path / "moved"), pairs_file, tokenizer, resumed=True, adapter=LoRA(r=2))


def test_other_pairs_in_the_same_file(tmp_path, pairs_file, tokenizer):
    """As many, of the same lengths: chosen and rejected change places in one of them."""
    fit(tmp_path, make_llama(), pairs_file, tokenizer)
    rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    for row in rows:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    pairs_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"trained with another set of training pairs: its digest was \w+ and is \w+"):
        fit(tmp_path, make_llama(), pairs_file, tokenizer, resumed=True)


def test_another_tokenizer_of_the_same_size(tmp_path, pairs_file, tokenizer):
    """Two of its tokens have each other's id."""
    fit(tmp_path, make_llama(), pairs_file, tokenizer)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|end|>", pad_token="<|end|>"
    )
    with pytest.raises(UserError, match=r"trained with another tokenizer: its digest was \w+ and is \w+"):
        fit(tmp_path, make_llama(), pairs_file, other, resumed=True)


def test_to_validate_a_checkpoint_needs_no_training_pairs(tmp_path, pairs_file, tokenizer):
    fit(tmp_path, make_llama(), pairs_file, tokenizer)
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=2, val_path=str(pairs_file))
    trainer = lightning.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    (metrics,) = trainer.validate(DPOModule(make_llama()), data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert metrics["val/rewards/margins"] != 0
