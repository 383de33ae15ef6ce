import torch

from lightning_dpo.cli.environment import facts


def test_versions_and_names_of_variables_without_their_values(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "SENTINEL")
    found = dict(facts())
    assert found["torch"] == torch.__version__
    assert "WANDB_API_KEY" in found["environment variables"]
    assert "SENTINEL" not in str(found)
