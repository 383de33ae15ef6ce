from pathlib import Path

import pytest

from lightning_dpo import UserError
from lightning_dpo.cli.copied_config import copy, options
from lightning_dpo.train import KEYS, CheckedConfig
from tests.support.compose import composed


def test_a_copy_of_an_experiment_is_used_as_printed(tmp_path):
    target = tmp_path / "my_conf" / "experiment" / "mine.yaml"
    arguments = copy("experiment/hh_llama", target)
    assert arguments == ["--config-dir", str(tmp_path / "my_conf"), "experiment=mine"]
    target.write_text(target.read_text().replace("max_kl: 20.0", "max_kl: 3.5"))
    config = composed(tmp_path, f"hydra.searchpath=[file://{tmp_path / 'my_conf'}]", "experiment=mine")
    assert CheckedConfig(config, KEYS).values["callbacks"]["guard"]["max_kl"] == 3.5


def test_a_copy_of_an_option_of_a_nested_group(tmp_path):
    assert copy("data/rows/hh", tmp_path / "data" / "rows" / "mine.yaml") == [
        "--config-dir",
        str(tmp_path),
        "data/rows=mine",
    ]


def test_every_option_can_be_copied_and_hydras_own_files_cannot():
    assert {"experiment/hh_llama", "sweep/beta", "loss/dpo", "data/source/hub"} <= options().keys()
    assert not [name for name in options() if name.startswith("hydra")]


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("experiment/hh_lama", "experiment/mine.yaml", "is not a config; did you mean experiment/hh_llama?"),
        ("loss/dpo", "mine.yaml", "must be in a folder loss/ and end in .yaml, for example my_conf/loss/mine.yaml"),
        ("loss/dpo", "my_loss/mine.yaml", "must be in a folder loss/"),
        ("loss/dpo", "loss/mine", "must be in a folder loss/ and end in .yaml"),
        ("loss/dpo", "loss/ipo.yaml", "loss=ipo exists already"),
    ],
)
def test_a_copy_that_hydra_would_not_find_is_rejected(tmp_path, name, target, reason):
    with pytest.raises(UserError, match=reason):
        copy(name, tmp_path / target)
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_replaced(tmp_path):
    target = Path(tmp_path, "loss", "mine.yaml")
    copy("loss/dpo", target)
    with pytest.raises(UserError, match="exists already, and is not replaced"):
        copy("loss/ipo", target)
