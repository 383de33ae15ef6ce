"""Short trainings."""

import lightning
import torch


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def trainer_for(folder, **options) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    settings = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    return lightning.Trainer(default_root_dir=folder, **quiet | settings | options)


def small(model_folder, hh_file, *more: str) -> list[str]:
    """Overrides for a run of seconds on the model and the pairs of the test."""
    return [
        f"model.name={model_folder}", f"data.path={hh_file}", "data.val_fraction=0.2", "data.pairs_per_step=4",
        "data.batch_size=2", "trainer.accelerator=cpu", "optimizer.lr=1e-3", *more,
    ]  # fmt: skip
