import re

import pytest

from lightning_dpo.cli.checked import CheckedConfig
from lightning_dpo.errors import UserError
from lightning_dpo.train import KEYS
from tests.support.compose import composed


def test_environment_variables_become_numbers(tmp_path, monkeypatch):
    """They are text; a value that a file or the command line has as text is rejected."""
    monkeypatch.setenv("LR", "1e-5")
    monkeypatch.setenv("SIZE", "16")
    monkeypatch.setenv("STEPS", "4")
    names = {"optimizer.lr": "LR", "data.batch_size": "SIZE", "trainer.val_check_steps": "STEPS"}
    overrides = [f"{key}=${{oc.env:{name}}}" for key, name in names.items()]
    checked = CheckedConfig(composed(tmp_path, *overrides), KEYS)
    values = checked.values["optimizer"]["lr"], checked.values["data"]["batch_size"]
    assert values == (1e-5, 16)
    assert checked.values["trainer"]["val_check_steps"] == 4
    with pytest.raises(UserError, match=r"optimizer\.lr='1e-5' is text and should be a number; remove the quotes"):
        CheckedConfig(composed(tmp_path, "optimizer.lr='1e-5'"), KEYS)


@pytest.mark.parametrize("value", ["${nope}", "${oc.env:NOT_SET}", "${no_resolver:1}"])
def test_the_key_of_a_value_that_cannot_be_resolved_is_named(tmp_path, value):
    """Not that of another value which refers to it, as callbacks.closed_form.beta does."""
    with pytest.raises(UserError, match=rf"loss\.beta={re.escape(value)}: "):
        CheckedConfig(composed(tmp_path, f"loss.beta={value}"), KEYS)
