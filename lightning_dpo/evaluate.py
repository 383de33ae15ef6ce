"""`python -m lightning_dpo.evaluate`: what a model's implicit rewards are worth, without training it."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from lightning_dpo.cli.command_line import run, told
from lightning_dpo.cli.config import CONFIG_DIR, build, check_all_arguments, check_names
from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder

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
    """Score the validation pairs, or the answers of a file; print, draw and write what came of it.

    Args:
        config: `conf/evaluate.yaml`, composed.
    """
    check_names(config, KEYS)
    check_all_arguments(config)

    from lightning import seed_everything

    from lightning_dpo.evaluation.model import as_trained, make_module, warn_of_trained_pairs
    from lightning_dpo.evaluation.report import report
    from lightning_dpo.runs.loggers import join_lightning_logs
    from lightning_dpo.training.precision import default_precision

    join_lightning_logs()
    seed_everything(config.seed, workers=True, verbose=False)
    config = as_trained(config)
    config.trainer.precision = config.trainer.precision or default_precision(config.trainer.accelerator)
    model = build(config, "model")
    data = build(config, "data", tokenizer=model.tokenizer(), chosen_only=False)
    if config.score is not None:
        score(config, model, data)
        return
    # Before a model is opened for data that cannot be read.
    data.setup("validate")
    warn_of_trained_pairs(config)
    module, why_ties = make_module(config, model, data)
    metrics, pairs = validated(config, module, data)
    report(metrics, pairs, RunFolder(config.run_folder))
    if why_ties and all(pair.margin == 0 for pair in pairs):
        log.warning("Every pair is a tie, and accuracy one half: %s.", why_ties)


def score(config: DictConfig, model: "CausalLM", data: "PreferenceDataModule") -> None:
    """Give rewards to the answers of a file."""
    from lightning_dpo.evaluation.model import make_module
    from lightning_dpo.evaluation.scoring import AnswersFile

    answers = AnswersFile(config.score, data.preparation.tokenization)
    module, why_ties = make_module(config, model, data)
    if why_ties:
        raise UserError(f"every reward would be 0: {why_ties}")
    trainer = build(config, "trainer", devices=1, logger=False, callbacks=[])
    target = RunFolder(config.run_folder).scores
    count = answers.write_rewards(target, module, trainer, data.batch_size, data.layout)
    log.info("Rewards of %d answers in %s.", count, target)


def validated(
    config: DictConfig, module: "DPOModule", data: "PreferenceDataModule"
) -> "tuple[dict[str, float], Sequence[ScoredPair]]":
    """Metrics as in training, and what is known of every validation pair."""
    from lightning_dpo.evaluation.scored_pairs import ScoredPairs

    collected = ScoredPairs()
    callbacks = [collected] if config.samples is None else [collected, build(config, "samples")]
    trainer: Trainer = build(config, "trainer", devices=1, logger=False, callbacks=callbacks)
    trainer.validate(module, data, verbose=False)
    if not collected.pairs:
        raise UserError(f"trainer.limit_val_batches={config.trainer.limit_val_batches}: no pair is judged")
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, collected.pairs


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="evaluate")
def job(config: DictConfig) -> None:
    """The Hydra job."""
    told(evaluate, config)


def main() -> None:
    """The console script; `--score FILE` is the key `score`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--score", nargs="?", const="")
    known, rest = parser.parse_known_args()
    sys.argv[1:] = rest if known.score is None else [*rest, f"score={known.score}"]
    run(job, "evaluate")


if __name__ == "__main__":
    main()
