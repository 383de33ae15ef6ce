import json
import math
import pickle

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo import metrics as metrics_module
from lightning_dpo.labels import LABELS
from lightning_dpo.losses import DPO, SFT, PreferenceLoss, PreferenceLossFunction
from lightning_dpo.metrics import (
    METRICS,
    PairMean,
    PairMetric,
    PairStd,
    preference_metrics,
    reward_accuracy,
    reward_margin,
    reward_tie,
)
from tests.support.models import make_llama
from tests.support.pair_logps import random_logps

ONES, ALL = torch.ones(6), torch.ones(6, dtype=torch.bool)


def test_batches_of_any_size_give_the_mean_over_all_pairs():
    """Batches of six and of two pairs: a mean of means would weigh the two as much as the six."""
    six, two = random_logps(6, seed=1), random_logps(2, seed=2)
    loss = DPO(0.2)
    metrics = preference_metrics("val/", DPO())
    metrics.update(loss(six), six, torch.ones(6), ALL)
    metrics.update(loss(two), two, torch.ones(2), ALL[:2])
    values = metrics.compute()

    margins = [0.2 * ((p.chosen - p.reference_chosen) - (p.rejected - p.reference_rejected)) for p in (six, two)]
    margins = torch.cat(margins)
    torch.testing.assert_close(values["val/rewards/margins"].item(), margins.mean().item())
    torch.testing.assert_close(values["val/rewards/accuracies"].item(), (margins > 0).float().mean().item())
    torch.testing.assert_close(values["val/logps/chosen"].item(), torch.cat([six.chosen, two.chosen]).mean().item())
    lengths = torch.cat([six.rejected_length, two.rejected_length])
    torch.testing.assert_close(values["val/length/rejected"].item(), lengths.mean().item())
    torch.testing.assert_close(values["val/loss"].item(), torch.cat([loss(six).losses, loss(two).losses]).mean().item())


def test_a_tie_counts_one_half():
    loss = PreferenceLoss(torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 1.0, 2.0]))
    accuracy, ties = PairMean(PairMetric("a", reward_accuracy)), PairMean(PairMetric("t", reward_tie))
    for metric in (accuracy, ties):
        metric.update(loss, None, torch.ones(4), ALL[:4])
    assert accuracy.compute() == 0.5  # one right, one wrong, two halves
    assert ties.compute() == 0.5


def test_pairs_that_fill_up_count_nowhere_even_when_not_finite():
    logps = random_logps()
    logps.chosen[5] = float("nan")
    weight = torch.tensor([1.0, 1, 1, 1, 1, 0])
    metrics = preference_metrics("val/", DPO())
    metrics.update(DPO()(logps), logps, weight, weight != 0)
    values = metrics.compute()
    assert all(math.isfinite(value) for value in values.values())
    torch.testing.assert_close(values["val/logps/chosen"].item(), logps.chosen[:5].mean().item())


def test_the_loss_is_weighted_and_divided_by_the_number_of_pairs():
    logps, weight = random_logps(), torch.tensor([2.0, 1, 1, 0.5, 1, 1])
    metrics = preference_metrics("train/", DPO())
    metrics.update(DPO()(logps), logps, weight, ALL)
    expected = (DPO()(logps).losses * weight).sum() / 6
    torch.testing.assert_close(metrics.compute()["train/loss"].item(), expected.item())


def test_metrics_that_start_equal_do_not_stay_tied():
    """Before training all rewards are 0. torchmetrics' compute groups would make one metric of all of them."""
    start = random_logps().at_start()
    metrics = preference_metrics("train/", DPO())
    metrics.update(DPO()(start), start, ONES, ALL)
    metrics.reset()
    logps = random_logps()
    metrics.update(DPO()(logps), logps, ONES, ALL)
    values = metrics.compute()
    assert values["train/rewards/chosen"] != values["train/rewards/rejected"]


def test_a_loss_without_a_reference_has_no_rewards_to_report():
    metrics = preference_metrics("train/", SFT())
    assert set(metrics.keys()) == {"train/loss", "train/logps/chosen", "train/length/chosen"}


def test_a_weight_of_zero_is_a_weight():
    """The pair trains nothing, and is one of the pairs all the same."""
    logps, weight = random_logps(), torch.tensor([0.0, 1, 1, 1, 1, 1])
    metrics = preference_metrics("train/", DPO())
    metrics.update(DPO()(logps), logps, weight, ALL)
    expected = logps.chosen.double().mean().item()
    torch.testing.assert_close(metrics.compute()["train/logps/chosen"].item(), expected)


class WithoutReference(PreferenceLossFunction):
    needs_reference = False

    def losses(self, pairs):
        return pairs.rejected - pairs.chosen

    def rewards(self, policy, reference):
        return policy.sums


def test_a_loss_without_a_reference_may_have_rewards():
    metrics, logps = preference_metrics("val/", WithoutReference()), random_logps()
    metrics.update(WithoutReference()(logps), logps, ONES, ALL)
    values = metrics.compute()
    torch.testing.assert_close(values["val/rewards/margins"].item(), (logps.chosen - logps.rejected).mean().item())
    assert not [name for name in values if "logratios" in name]


def test_sums_stay_exact_when_the_module_is_cast_to_bf16():
    """As Lightning's bf16-true does: bf16 cannot count past 256. A reset takes the states from their defaults."""
    metric = PairMean(PairMetric("ties", reward_tie))
    nn.ModuleList([metric]).to(dtype=torch.bfloat16)
    metric.reset()
    loss = PreferenceLoss(torch.zeros(6), torch.zeros(6), torch.zeros(6))
    for _ in range(100):
        metric.update(loss, None, ONES, ALL)
    assert (metric.count.item(), metric.compute().item()) == (600, 1)


def test_no_pair_gives_no_number():
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert math.isnan(PairMean(PairMetric("a", reward_accuracy)).compute())


def test_validation_sums_are_exact_under_bf16_true(tmp_path, tokenizer):
    """2 400 pairs of an untrained policy: the loss is ln 2. Lightning casts the metrics, and resets them afterwards."""
    rows = [{"prompt": f"{n}:", "chosen": " yes", "rejected": " no"} for n in range(2400)]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "x", "chosen": " a", "rejected": " b"}) + "\n")
    data = PreferenceDataModule(
        str(tmp_path / "train.jsonl"), tokenizer=tokenizer, val_path=str(tmp_path / "val.jsonl"), batch_size=40,
        layout="padded",
    )  # fmt: skip
    trainer = lightning.Trainer(
        precision="bf16-true", accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    (metrics,) = trainer.validate(DPOModule(make_llama().to(torch.bfloat16)), data, verbose=False)
    assert metrics["val/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (metrics["val/rewards/accuracies"], metrics["val/rewards/ties"]) == (0.5, 1)


MARGIN_STD = PairMetric("rewards/margin_std", reward_margin, PairStd, requires=("needs_rejected", "has_rewards"))


def test_a_standard_deviation_is_that_of_all_pairs_however_they_are_batched(monkeypatch):
    monkeypatch.setattr(metrics_module, "METRICS", (*METRICS, MARGIN_STD))
    six, two = random_logps(6, seed=1), random_logps(2, seed=2)
    loss, metrics = DPO(0.2), preference_metrics("val/", DPO(0.2))
    metrics.update(loss(six), six, torch.ones(6), ALL)
    metrics.update(loss(two), two, torch.ones(2), torch.tensor([True, False]))
    margins = torch.cat([loss(six).margins, loss(two).margins[:1]]).double()
    torch.testing.assert_close(metrics.compute()["val/rewards/margin_std"], margins.std(correction=0))


def test_a_metric_in_the_table_is_logged_in_training_and_validation_and_for_each_source(
    tmp_path, tokenizer, monkeypatch
):
    monkeypatch.setattr(metrics_module, "METRICS", (*METRICS, MARGIN_STD))
    rows = [{"prompt": f"{n}:", "chosen": " yes", "rejected": " no"} for n in range(8)]
    data = PreferenceDataModule(
        rows={"a": lambda _: rows, "b": lambda _: rows}, tokenizer=tokenizer, batch_size=4, drop_seen_prompts=False
    )
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=CSVLogger(tmp_path), log_every_n_steps=1, enable_progress_bar=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(DPOModule(make_llama()), data)
    logged = set(trainer.logged_metrics) | {name for row in trainer.logger.experiment.metrics for name in row}
    expected = {f"{prefix}rewards/margin_std" for prefix in ("train/", "val/", "val/a/", "val/b/")}
    assert expected <= set(trainer.callback_metrics) | logged


def test_directions_agree_with_the_arrows_of_the_labels():
    for metric in METRICS:
        for split in ("train", "val"):
            if label := LABELS.get(f"{split}/{metric.name}"):
                assert label.better == {True: "↑", False: "↓", None: ""}[metric.higher_is_better], metric.name


def test_metrics_can_be_pickled():
    """A Trainer that starts its processes by spawn pickles the module."""
    metrics = preference_metrics("val/", DPO())
    assert set(pickle.loads(pickle.dumps(metrics)).keys()) == set(metrics.keys())
