import torch

from lightning_dpo.cli.environment import facts


def test_versions_and_names_of_variables_without_values_that_may_be_secrets(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "SENTINEL")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = dict(facts())
    assert found["torch"] == torch.__version__
    assert "OMP_NUM_THREADS=3" in found["environment variables"]
    assert "WANDB_API_KEY" in found["environment variables"]
    assert "SENTINEL" not in str(found)
