"""Configs composed, and commands run, in the test's own process."""

import json
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lightning_dpo.cli.config import CONFIG_DIR, ROOT, register_folders
from lightning_dpo.evaluate import evaluate

NAMED = [("experiment", file.stem) for file in sorted((ROOT / "experiments").glob("*.yaml"))]


def composed(folder: Path, *overrides: str, config_name: str = "train") -> DictConfig:
    """`conf/train.yaml`, or that of another command, with `overrides`, for a run that writes into `folder`."""
    register_folders()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(config_name, [f"run_folder={folder}", "run_name=test", *overrides])


def evaluated(folder, *overrides) -> dict:
    folder.mkdir(exist_ok=True)
    samples = ["samples.max_new_tokens=4", "samples.answers=3"]
    evaluate(composed(folder, *samples, *overrides, config_name="evaluate"))
    return json.loads((folder / "metrics.json").read_text())
