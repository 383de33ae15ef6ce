import re
from types import SimpleNamespace

import pytest
import torch

from lightning_dpo import UserError
from lightning_dpo.callbacks.checkpoints import BestCheckpoint
from lightning_dpo.callbacks.guards import Guards
from lightning_dpo.callbacks.samples import Samples
from lightning_dpo.losses import DPO, SFT

WELL = {"val/kl": 1.0} | {
    f"val/samples/{side}{name}": value
    for side in ("", "reference/")
    for name, value in (("length", 10.0), ("repetition", 0.1), ("ended", 0.9))
}


def trainer(step: int = 0, callbacks=(), **metrics: float) -> SimpleNamespace:
    return SimpleNamespace(
        global_step=step,
        sanity_checking=False,
        should_stop=False,
        callbacks=callbacks,
        state=SimpleNamespace(fn="fit"),
        is_global_zero=True,
        callback_metrics={name: torch.tensor(value) for name, value in metrics.items()},
    )


BAD = {
    "val/kl": (3.0, "val/kl is 3.00 nats, beyond callbacks.guard.max_kl=2"),
    "val/samples/length": (16.0, "sampled answers have 16 tokens, the reference's 10"),
    "val/samples/repetition": (0.25, r"repeat themselves \(25% of their four-token runs, the reference's 10%\)"),
    "val/samples/ended": (0.5, "50% of the sampled answers end by themselves, 90% of the reference's"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("stop", [False, True])
def test_every_guard_of_the_samples_warns_once_and_stops_when_asked(caplog, name, stop):
    value, text = BAD[name]
    guards, calm, bad = Guards(max_kl=2, stop=stop), trainer(**WELL), trainer(7, **WELL | {name: value})
    guards.on_validation_end(calm, None)
    assert not caplog.text
    for _ in range(2):
        guards.on_validation_end(bad, None)
    (record,) = caplog.records
    assert re.search(text, record.getMessage())
    assert "Guard at step 7" in record.getMessage()
    assert bad.should_stop is stop
    assert not calm.should_stop


def steps(guards: Guards, values) -> None:
    """One optimizer step for each value of the chosen answers' log-ratio."""
    guards.on_train_start(trainer(), None)
    for step, value in enumerate(values, 1):
        guards.on_train_batch_end(trainer(step, **{"train/logratios/chosen": value}))


@pytest.mark.parametrize(
    ("values", "warns"),
    [
        ([0.5, 0.5, -1, -1, -4, -4], True),
        ([0.2, 0.2, -0.1, -0.1, -0.2, -0.2], False),  # falling, but a little: as in the default world, at its optimum
        ([-6, -6, -5, -5, -4, -4], False),  # low, but rising
        ([-4, -4, -5, -5, -4.5, -4.5, -5, -5], False),  # never twice in a row
    ],
)
def test_the_chosen_answers_may_not_fall_far_and_further(caplog, values, warns):
    steps(Guards(window=2), values)
    assert ("the chosen answers are less likely than under the reference and continue to fall" in caplog.text) is warns


def test_what_was_said_and_seen_survives_a_resume(caplog):
    first, second = Guards(window=1), Guards(window=1)
    steps(first, [-4, -5, -6])
    assert len(caplog.records) == 1
    second.load_state_dict(first.state_dict())
    steps(second, [-7, -8, -9])
    assert len(caplog.records) == 1


def test_without_a_reference_the_first_validation_is_compared_with(caplog):
    guards = Guards()
    own = {name: value for name, value in WELL.items() if "reference" not in name and "kl" not in name}
    guards.on_validation_end(trainer(**own), None)
    guards.on_validation_end(trainer(**own | {"val/samples/length": 16.0}), None)
    assert "16 tokens, the reference's 10" in caplog.text


def test_a_budget_needs_what_measures_it(tmp_path):
    module = SimpleNamespace(loss=DPO())
    Guards(max_kl=1).setup(trainer(callbacks=[Samples(str(tmp_path))]), module, "fit")
    for callbacks in ([], [Samples(str(tmp_path), greedy=True)]):
        with pytest.raises(UserError, match=r"callbacks.guard.max_kl has no effect without val/kl"):
            Guards(max_kl=1).setup(trainer(callbacks=callbacks), module, "fit")
    with pytest.raises(UserError, match=r"SFT\(.*\) has no reference to be far from"):
        Guards(max_kl=1).setup(trainer(callbacks=[Samples(str(tmp_path))]), SimpleNamespace(loss=SFT()), "fit")


def test_the_best_checkpoint_is_within_the_budget(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        "lightning.pytorch.callbacks.ModelCheckpoint.on_validation_end", lambda self, trainer, _: saved.append(trainer)
    )
    best = BestCheckpoint(str(tmp_path), "val/loss", "min", max_kl=2)
    for kl in (1.0, 3.0):
        best.on_validation_end(trainer(**{"val/kl": kl}), None)
    best.on_validation_end(trainer(), None)  # a sanity validation has no samples
    assert len(saved) == 1
    BestCheckpoint(str(tmp_path), "val/loss", "min").on_validation_end(trainer(), None)
    assert len(saved) == 2


@pytest.mark.parametrize("name", ["max_kl", "window"])
def test_values(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Guards(**{name: 0})
