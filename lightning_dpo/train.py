"""`python -m lightning_dpo.train`: puts a run together from its config. The only file that knows all the others.

Heavy imports stand inside functions: `--help` does without them, and a mistake in the config is told before them.
"""

import logging
import sys
import time
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.command_line import run, traceback_wanted
from lightning_dpo.config import CONFIG_DIR, build, check_arguments, check_names
from lightning_dpo.errors import UserError
from lightning_dpo.without_effect import refuse_without_effect

if TYPE_CHECKING:
    from lightning import Trainer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lightning_dpo import PreferenceDataModule
    from lightning_dpo.policy import CausalLM

log = logging.getLogger(__name__)

KEYS = {
    "model", "reference", "data", "loss", "optimizer", "scheduler", "trainer", "logger", "callbacks",
    "suggested", "seed", "run_name", "run_folder", "ckpt_path", "sweep_objective",
}  # fmt: skip


def train(config: DictConfig) -> float:
    """One run: check, build, fit, export, report.

    Args:
        config: `conf/train.yaml`, composed.

    Returns:
        The metric that `sweep_objective` names.
    """
    check_names(config, KEYS)
    # The loss first: it is what people set most, and needs the fewest imports.
    loss = build(config, "loss")
    check_arguments(config)
    started = time.perf_counter()

    from lightning import seed_everything

    from lightning_dpo import DPOModule, results
    from lightning_dpo.loggers import end_wandb

    seed_everything(config.seed, workers=True, verbose=False)
    model = build(config, "model")
    module = DPOModule(
        policy=lambda: fitting_policy(model, data.tokenizer),
        loss=loss,
        reference=build(config, "reference"),
        optimizer=build(config, "optimizer"),
        scheduler=build(config, "scheduler"),
    )
    data = build(config, "data", tokenizer=model.tokenizer(), chosen_only=not loss.needs_rejected)
    # Before loggers open runs for data that cannot be read.
    data.setup("fit")
    try:
        trainer = make_trainer(config, data)
        trainer.fit(module, data, ckpt_path=checkpoint(config), weights_only=True)
        return results.write(config, trainer, module, data, seconds=time.perf_counter() - started)
    finally:
        end_wandb()


def fitting_policy(model: "CausalLM", tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """The policy, once it is known to have an embedding for every token."""
    from lightning_dpo.policy import check_vocabulary

    policy = model.policy()
    check_vocabulary(policy, tokenizer)
    return policy


def make_trainer(config: DictConfig, data: "PreferenceDataModule") -> "Trainer":
    """The Trainer with its loggers and callbacks, its precision and its accumulation."""
    import torch

    from lightning_dpo.data.sampling import accumulation
    from lightning_dpo.loggers import join_lightning_logs, without_secrets

    if "accumulate_grad_batches" in config.trainer:
        raise UserError(
            "trainer.accumulate_grad_batches follows from data.pairs_per_step: set that and data.batch_size"
        )
    join_lightning_logs()
    config = config.copy()
    if config.trainer.precision is None:
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        config.trainer.precision = "bf16-mixed" if bf16 else "32-true"
    loggers = list(build(config, "logger").values())
    trainer = build(config, "trainer", logger=loggers, callbacks=list(build(config, "callbacks").values()))
    trainer.accumulate_grad_batches = accumulation(data.pairs_per_step, data.batch_size, trainer.world_size)
    for logger in loggers:
        logger.log_hyperparams(without_secrets(OmegaConf.to_container(config, resolve=True)))
    return trainer


def checkpoint(config: DictConfig) -> str | None:
    """The checkpoint to go on from, or None."""
    if config.ckpt_path != "last":
        return config.ckpt_path
    path = f"{config.run_folder}/checkpoints/last.ckpt"
    log.info("Going on from %s.", path)
    return path


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def job(config: DictConfig) -> float:
    """The Hydra job. A mistake ends a single run here, in one sentence; in a sweep, it is the launcher's to record."""
    try:
        refuse_without_effect(config, HydraConfig.get().overrides.task)
        return train(config)
    except UserError as error:
        log.error("%s", error)
        if HydraConfig.get().mode == RunMode.MULTIRUN or traceback_wanted():
            raise
        sys.exit(1)


def main() -> None:
    """The console script."""
    run(job)


if __name__ == "__main__":
    main()
