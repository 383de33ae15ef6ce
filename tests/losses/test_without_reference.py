import json

import pytest

from lightning_dpo import UserError
from lightning_dpo.cli import targets
from lightning_dpo.train import train
from tests.support.compose import composed
from tests.support.training import small


def test_a_loss_without_a_reference_may_have_rewards(tmp_path, model_folder, hh_file, monkeypatch):
    """Written by the guide in losses/README.md: its rewards are logged, and choose best.ckpt."""
    monkeypatch.setattr(targets, "OWN_PACKAGES", ("tests.",))
    name, options = (
        "tests.support.without_reference",
        [*small(model_folder, hh_file), "logger=csv", "~loss.label_smoothing"],
    )
    train(composed(tmp_path, "model=llama", "data=hh", *options, f"loss._target_={name}.SimPO", "loss.beta=2"))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["val/rewards/margins"] != 0
    assert "val/logratios/chosen" not in metrics
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()
    with pytest.raises(UserError, match=r"loss: Silent does not define rewards\(\): define it"):
        train(composed(tmp_path / "silent", "model=llama", "data=hh", *options, f"loss._target_={name}.Silent"))
