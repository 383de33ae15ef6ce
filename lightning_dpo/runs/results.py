"""Results of a finished run: exports, final metrics, and curves."""

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.errors import LoggedWarning
from lightning_dpo.models.sharding import is_sharded, make_whole
from lightning_dpo.module import DPOModule
from lightning_dpo.run_folder import RunFolder, write_atomically
from lightning_dpo.runs.exports import architecture, export_run, record
from lightning_dpo.runs.loggers import wandb_url
from lightning_dpo.runs.model_card import model_card

log = logging.getLogger(__name__)

_RESULTS = ("export", "export_merged", "checkpoints", "metrics.json", "metrics.csv", "samples.jsonl", "curves.png")


def write(
    config: DictConfig,
    trainer: Trainer,
    module: DPOModule,
    data: PreferenceDataModule,
    seconds: float,
    warnings: Sequence[LoggedWarning],
    draw: Callable[[Path, Path], None],
) -> float:
    """Export the model, save the loggers, draw `curves.png`, write `metrics.json`.

    Args:
        config: Config of the run.
        trainer: The Trainer, after `fit`.
        module: The trained module.
        data: The data module.
        seconds: Wall-clock time of the run.
        warnings: Warnings that were logged.
        draw: Draws the curves of a `metrics.csv` to a file.

    Returns:
        The metric `sweep_objective`; NaN with a warning if it is missing.
    """
    metrics = final_metrics(trainer, module, data)
    if is_sharded(module.policy):
        make_whole(module.policy, keep=trainer.is_global_zero)
    if trainer.is_global_zero:
        folder = RunFolder(config.run_folder)
        facts = module.identity.facts
        trained = architecture(module.policy)
        card = partial(model_card, config, metrics, data.counts, trainer.global_step, trained, facts, data.messages)
        merge = bool(module.make_adapter and module.make_adapter.merge)
        export_run(module.policy, data.tokenizer, folder.path, card, record(config, facts), merge)
        for logger in trainer.loggers:
            logger.save()
        if folder.history.exists():
            draw(folder.history, folder.curves)
        run: dict[str, Any] = {"steps": trainer.global_step, "epochs": trainer.current_epoch}
        run |= {"seconds": round(seconds, 1), "architecture": trained, "messages": data.messages}
        if url := wandb_url(trainer):
            run |= {"wandb": url}
        run |= {"warnings": [warning.text for warning in warnings]}
        # Written last, because a folder with metrics.json counts as a finished run.
        write_atomically(folder.metrics, json.dumps(metrics | run | {"data": data.counts}, indent=2) + "\n")
        written = [name for name in _RESULTS if _has_content(folder.path / name)]
        log.info("Results in %s: %s.", folder.path, ", ".join(written))
    # A single run does not need the default.
    given = config.sweep_objective not in (None, OmegaConf.select(config, "callbacks.best.monitor"))
    if config.sweep_objective not in metrics and (given or RunFolder(config.run_folder).sweep):
        log.warning(
            "sweep_objective=%s is not a metric of this run; its metrics are %s.",
            config.sweep_objective,
            ", ".join(sorted(metrics)),
        )
    return metrics.get(config.sweep_objective, float("nan"))


def _has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def final_metrics(trainer: Trainer, module: DPOModule, data: PreferenceDataModule) -> dict[str, float]:
    """The metrics of the exported weights. If training stopped between two validations, validate once more."""
    metrics = dict(trainer.callback_metrics)
    if module.validated_step != trainer.global_step:
        trainer.validate(module, data, verbose=False)
        metrics |= trainer.callback_metrics
    return {name: float(value) for name, value in metrics.items()}
