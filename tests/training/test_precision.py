import pytest
import torch

from lightning_dpo.training.precision import default_precision


@pytest.mark.parametrize(
    ("accelerator", "gpu", "precision"),
    [("auto", True, "bf16-mixed"), ("auto", False, "32-true"), ("cpu", True, "32-true"), ("gpu", True, "bf16-mixed")],
)
def test_bf16_where_the_accelerator_has_it(monkeypatch, accelerator, gpu, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)
    assert default_precision(accelerator) == precision
