import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from lightning_dpo.cli.changed_settings import changed_settings
from lightning_dpo.cli.config import CONFIG_DIR, register_folders


def run_with(folder, *overrides: str):
    """A folder with the settings files of a run."""
    register_folders()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", [*overrides, f"run_folder={folder}"], return_hydra_config=True)
    (folder / ".hydra").mkdir()
    OmegaConf.save({"hydra": config.hydra}, folder / ".hydra" / "hydra.yaml")
    with open_dict(config):
        del config["hydra"]
    OmegaConf.save(config, folder / "config.yaml")
    return folder


def test_the_default_run_differs_in_nothing(tmp_path):
    assert changed_settings(run_with(tmp_path)) == []


def test_options_of_groups_come_before_settings(tmp_path):
    """Settings that an option sets are not listed, because they are its defaults."""
    run = run_with(tmp_path, "model=llama", "data=hh", "loss=ipo", "loss.beta=0.3", "seed=2")
    assert changed_settings(run) == [
        ("loss", "ipo", "dpo"), ("data", "hh", "reviews"), ("model", "llama", "tiny"),
        ("loss.beta", "0.3", "0.1"), ("seed", "2", "0"),
    ]  # fmt: skip


def test_the_settings_of_an_experiment_are_listed_one_by_one(tmp_path):
    found = {one.name: one for one in changed_settings(run_with(tmp_path, "experiment=hh_llama"))}
    assert found["model"].value == "llama"
    assert "experiment" not in found
    assert [name for name in found if "." in name]


def test_a_secret_in_an_option_of_ones_own_is_not_shown(tmp_path):
    (tmp_path / "conf" / "optimizer").mkdir(parents=True)
    (tmp_path / "conf" / "optimizer" / "mine.yaml").write_text(
        "_target_: torch.optim.SGD\napi_key: SENTINEL\nlr: 0.1\n"
    )
    (tmp_path / "run").mkdir()
    run = run_with(tmp_path / "run", "optimizer=mine", f"hydra.searchpath=[file://{tmp_path / 'conf'}]")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("SENTINEL", "(secret)").replace("lr: 0.1", "lr: 0.2"))
    found = changed_settings(run)
    assert ("optimizer.lr", "0.2", "0.1") in found
    assert "SENTINEL" not in str(found)


def test_a_setting_that_was_removed(tmp_path):
    assert ("loss.label_smoothing", "(not set)", "0.0") in changed_settings(run_with(tmp_path, "~loss.label_smoothing"))


def test_an_option_that_is_not_on_this_machine(tmp_path):
    run = run_with(tmp_path, "loss=ipo")
    hydra = run / ".hydra" / "hydra.yaml"
    hydra.write_text(hydra.read_text().replace("loss: ipo", "loss: mine"))
    with pytest.raises(HydraException):
        changed_settings(run)
