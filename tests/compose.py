"""Configs composed in the test's own process."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lightning_dpo.config import CONFIG_DIR, register_folders


def composed(folder: Path, *overrides: str, config_name: str = "train") -> DictConfig:
    """`conf/train.yaml`, or that of another command, with `overrides`, for a run that writes into `folder`."""
    register_folders()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(config_name, [f"run_folder={folder}", "run_name=test", *overrides])
