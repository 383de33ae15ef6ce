"""Losses over the whole optimizer step: refused in parts, and the same whatever the size of validation batches."""

import pytest

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.losses import AOT, BetaDPO
from tests.support.models import make_llama
from tests.support.train_on_ranks import OtherWeights
from tests.support.training import sgd, trainer_for


def fit(folder, pairs_file, tokenizer, loss, batch_size, **options) -> dict[str, float]:
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=batch_size, val_fraction=0.5)
    trainer = trainer_for(folder, max_steps=1, **options)
    trainer.fit(DPOModule(make_llama(), loss, OtherWeights(), optimizer=sgd), data)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_a_step_of_several_micro_batches_is_refused(tmp_path, pairs_file, tokenizer):
    message = "AOT compares the pairs of an optimizer step .* 3 micro-batches: set data.batch_size=6, or a smaller"
    with pytest.raises(UserError, match=message):
        fit(tmp_path, pairs_file, tokenizer, AOT(0.3), 2, accumulate_grad_batches=3)


@pytest.mark.parametrize("loss", [AOT(0.3), BetaDPO(0.3, alpha=0.1)])
def test_validation_is_one_step_whatever_the_batch_size(tmp_path, pairs_file, tokenizer, loss):
    found = []
    for size in (1, 5, 12):
        module = DPOModule(make_llama(), loss, OtherWeights())
        data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=size, val_fraction=0.5)
        (metrics,) = trainer_for(tmp_path).validate(module, data, verbose=False)
        found.append(metrics)
    for metrics in found[1:]:
        assert metrics == pytest.approx(found[0], rel=1e-5)


def test_the_beta_of_the_step_is_logged(tmp_path, pairs_file, tokenizer):
    metrics = fit(tmp_path, pairs_file, tokenizer, BetaDPO(0.3, alpha=0.1), 12)
    assert metrics["train/beta"] > 0
    assert metrics["train/beta"] != 0.3
    assert {"val/beta", "train/gradient_weight"} <= metrics.keys()
