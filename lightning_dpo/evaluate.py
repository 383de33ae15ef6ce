"""`python -m lightning_dpo.evaluate`: how well the rewards of a model agree with preference pairs."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from lightning_dpo.cli.checked import CheckedConfig
from lightning_dpo.cli.command_line import run, run_job
from lightning_dpo.cli.config import CONFIG_DIR
from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.settings_files import task_overrides

if TYPE_CHECKING:
    from lightning import Trainer

    from lightning_dpo import DPOModule, PreferenceDataModule
    from lightning_dpo.evaluation.accuracy import ScoredPair
    from lightning_dpo.models.causal_lm import CausalLM

log = logging.getLogger(__name__)

KEYS = {
    "model", "adapter", "reference", "data", "loss", "trainer", "samples", "suggested", "callbacks",
    "score", "seed", "run_name", "run_folder", "ckpt_path",
}  # fmt: skip


def evaluate(config: DictConfig) -> None:
    """Score the validation pairs, or the answers of a file; print, plot and write the results.

    Args:
        config: The composed `conf/evaluate.yaml`.
    """
    checked = CheckedConfig(config, KEYS, task_overrides())

    from lightning import seed_everything

    from lightning_dpo.evaluation.model import as_trained, make_module, warn_of_trained_pairs
    from lightning_dpo.evaluation.report import report
    from lightning_dpo.runs.loggers import join_lightning_logs
    from lightning_dpo.training.precision import default_precision

    join_lightning_logs()
    seed_everything(config.seed, workers=True, verbose=False)
    if (trained := as_trained(config)) is not config:
        config, checked = trained, CheckedConfig(trained, KEYS, task_overrides())
    model = checked.build("model")
    data = checked.build("data", tokenizer=model.tokenizer(), chosen_only=False)
    precision = config.trainer.precision or default_precision(config.trainer.accelerator)
    make_trainer = partial(checked.build, "trainer", devices=1, logger=False, precision=precision)
    if config.score is not None:
        score(config, checked, model, data, make_trainer)
        return
    # Data that cannot be read must stop the command before a model is opened.
    data.setup("validate")
    warn_of_trained_pairs(config)
    module, why_ties = make_module(config, checked, model, data)
    metrics, pairs = validated(config, checked, module, data, make_trainer)
    report(metrics, pairs, RunFolder(config.run_folder))
    if why_ties and all(pair.margin == 0 for pair in pairs):
        log.warning("All pairs are ties, so the accuracy is one half: %s.", why_ties)


def score(
    config: DictConfig,
    checked: CheckedConfig,
    model: "CausalLM",
    data: "PreferenceDataModule",
    make_trainer: "Callable[..., Trainer]",
) -> None:
    """Write the rewards of the answers in a file."""
    from lightning_dpo.evaluation.model import check_no_cache, make_module
    from lightning_dpo.evaluation.scoring import AnswersFile

    check_no_cache(config, "the log-probs of answers in a file are not cached")
    answers = AnswersFile(config.score, data.preparation.tokenization)
    module, why_ties = make_module(config, checked, model, data)
    if why_ties:
        raise UserError(f"every reward would be 0: {why_ties}")
    trainer = make_trainer(callbacks=[])
    target = RunFolder(config.run_folder).scores
    count = answers.write_rewards(target, module, trainer, data.batch_size, data.layout)
    log.info("Wrote the rewards of %d answers to %s.", count, target)


def validated(
    config: DictConfig,
    checked: CheckedConfig,
    module: "DPOModule",
    data: "PreferenceDataModule",
    make_trainer: "Callable[..., Trainer]",
) -> "tuple[dict[str, float], Sequence[ScoredPair]]":
    """The metrics of the validation pairs, as in training, and the rewards of each pair."""
    from lightning_dpo.evaluation.scored_pairs import ScoredPairs

    collected = ScoredPairs()
    callbacks = [collected] if config.samples is None else [collected, checked.build("samples")]
    trainer = make_trainer(callbacks=callbacks)
    trainer.validate(module, data, verbose=False)
    if not collected.pairs:
        raise UserError(f"trainer.limit_val_batches={config.trainer.limit_val_batches}: no pair is evaluated")
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, collected.pairs


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="evaluate")
def job(config: DictConfig) -> None:
    """The Hydra job."""
    run_job(evaluate, config)


def main() -> None:
    """The console script. `--score FILE` sets the key `score`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--score", nargs="?", const="")
    known, rest = parser.parse_known_args()
    sys.argv[1:] = rest if known.score is None else [*rest, f"score={known.score}"]
    run(job, "evaluate")


if __name__ == "__main__":
    main()
