"""Optimizers that a config may name."""

import sys
from types import ModuleType

import pytest
import torch

from lightning_dpo.cli.checked import CheckedConfig
from lightning_dpo.errors import UserError
from lightning_dpo.train import KEYS
from tests.support.compose import composed


@pytest.mark.parametrize("name", ["Adagrad", "Adam", "LBFGS", "Muon", "SparseAdam"])
def test_every_optimizer_of_torch_is_allowed(tmp_path, name):
    override = f"optimizer={{_target_: torch.optim.{name}, _partial_: true}}"
    checked = CheckedConfig(composed(tmp_path, f"+{override}", "~optimizer"), KEYS)
    assert checked.build("optimizer").func is getattr(torch.optim, name)


def test_optimizers_of_bitsandbytes_are_allowed_and_nothing_else_of_it(tmp_path, monkeypatch):
    module = ModuleType("bitsandbytes.optim")
    module.AdamW8bit, module.run = type("AdamW8bit", (torch.optim.AdamW,), {}), print
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    for name in ("AdamW8bit", "run", "absent"):
        config = composed(
            tmp_path, "~optimizer", f"+optimizer={{_target_: bitsandbytes.optim.{name}, _partial_: true}}"
        )
        if name == "AdamW8bit":
            assert CheckedConfig(config, KEYS).build("optimizer").func is module.AdamW8bit
        else:
            with pytest.raises(
                UserError, match=r"optimizer\._target_=bitsandbytes\.optim.*(not allowed|cannot be imported)"
            ):
                CheckedConfig(config, KEYS)
