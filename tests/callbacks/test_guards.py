import re

import pytest
import torch

from lightning_dpo import DPOModule, UserError
from lightning_dpo.callbacks import BestCheckpoint
from lightning_dpo.callbacks.guards import Guards
from lightning_dpo.callbacks.samples import Samples
from lightning_dpo.losses import DPO, SFT
from tests.support.models import make_llama
from tests.support.scripted import fit_scripted
from tests.support.training import trainer_for

WELL = {"val/kl": 1.0} | {
    f"val/samples/{side}{name}": value
    for side in ("", "reference/")
    for name, value in (("length", 10.0), ("repetition", 0.1), ("ended", 0.9))
}
BAD = {
    "val/kl": (3.0, "val/kl is 3.00 nats, more than callbacks.guard.max_kl=2"),
    "val/samples/length": (16.0, "sampled answers have 16 tokens, those of the reference 10"),
    "val/samples/repetition": (0.25, r"repeat themselves \(25% of their 4-grams, 10% for the reference\)"),
    "val/samples/ended": (0.5, "50% of the sampled answers end with an end-of-sequence token, 90% for the reference"),
}


class ScriptedSamples(Samples):
    """What `max_kl` asks for; here, the module logs its metrics."""

    def setup(self, *args, **options) -> None:
        pass

    def on_validation_epoch_end(self, *args) -> None:
        pass


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.endswith("guards")]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("stop", [False, True])
def test_every_guard_of_the_samples_warns_once_and_stops_when_asked(tmp_path, caplog, name, stop):
    value, text = BAD[name]
    bad = WELL | {name: value}
    callbacks = [Guards(max_kl=2, stop=stop), ScriptedSamples(str(tmp_path))]
    trainer = fit_scripted(tmp_path, callbacks, [WELL, bad, bad, bad])
    (message,) = warnings_of(caplog)
    assert re.search(text, message)
    assert message.startswith("Guard at step 2")
    assert trainer.global_step == (2 if stop else 4)


@pytest.mark.parametrize(
    ("values", "warns"),
    [
        ([0.5, 0.5, -1, -1, -4, -4], True),
        ([0.2, 0.2, -0.1, -0.1, -0.2, -0.2], False),  # falling, but a little: as in the default task, at its optimum
        ([-6, -6, -5, -5, -4, -4], False),  # low, but rising
        ([-4, -4, -5, -5, -4.5, -4.5, -5, -5], False),  # never twice in a row
    ],
)
def test_the_chosen_answers_may_not_fall_far_and_further(tmp_path, caplog, values, warns):
    fit_scripted(tmp_path, [Guards(window=2)], steps=steps_of(values))
    assert ("the chosen answers are less likely than under the reference, and their log-ratio" in caplog.text) is warns


def steps_of(values) -> list[dict[str, float]]:
    """One optimizer step for each value of the chosen answers' log-ratio."""
    return [{"train/logratios/chosen": float(value)} for value in values]


def test_what_was_reported_survives_a_resume(tmp_path, caplog):
    first, second = Guards(window=1), Guards(window=1)
    fit_scripted(tmp_path, [first], steps=steps_of([-4, -5, -6]))
    assert len(warnings_of(caplog)) == 1
    second.load_state_dict(first.state_dict())
    fit_scripted(tmp_path, [second], steps=steps_of([-7, -8, -9]))
    assert len(warnings_of(caplog)) == 1


def test_without_a_reference_the_first_validation_is_compared_with(tmp_path, caplog):
    own = {name: value for name, value in WELL.items() if "reference" not in name and "kl" not in name}
    fit_scripted(tmp_path, [Guards()], [own, own | {"val/samples/length": 16.0}])
    assert "16 tokens, those of the reference 10" in caplog.text


def test_a_budget_needs_what_measures_it(tmp_path):
    module, samples = DPOModule(make_llama(), DPO()), Samples(str(tmp_path))
    Guards(max_kl=1).setup(trainer_for(tmp_path, callbacks=[samples]), module, "fit")
    for callbacks in ([], [Samples(str(tmp_path), greedy=True)]):
        with pytest.raises(UserError, match=r"callbacks.guard.max_kl has no effect without val/kl"):
            Guards(max_kl=1).setup(trainer_for(tmp_path, callbacks=callbacks), module, "fit")
    with pytest.raises(UserError, match=r"SFT\(.*\) does not use a reference"):
        Guards(max_kl=1).setup(trainer_for(tmp_path, callbacks=[samples]), DPOModule(make_llama(), SFT()), "fit")


@pytest.mark.parametrize(("max_kl", "step"), [(2, 1), (None, 2)])
def test_the_best_checkpoint_is_within_the_budget(tmp_path, max_kl, step):
    best = BestCheckpoint(str(tmp_path), "val/loss", "min", max_kl=max_kl)
    fit_scripted(tmp_path, [best], [{"val/kl": 1.0, "val/loss": 0.5}, {"val/kl": 3.0, "val/loss": 0.4}])
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == step


def test_without_a_kl_no_checkpoint_is_within_a_budget(tmp_path):
    fit_scripted(tmp_path, [BestCheckpoint(str(tmp_path), "val/loss", "min", max_kl=2)], [{"val/loss": 0.5}])
    assert not (tmp_path / "best.ckpt").exists()


@pytest.mark.parametrize("name", ["max_kl", "window"])
def test_values(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Guards(**{name: 0})
