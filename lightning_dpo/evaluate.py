"""`python -m lightning_dpo.evaluate`: what a model's implicit rewards are worth, without training it."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from lightning_dpo.command_line import run, told
from lightning_dpo.config import CONFIG_DIR, build, check_all_arguments, check_names

if TYPE_CHECKING:
    from lightning import Trainer

    from lightning_dpo import DPOModule
    from lightning_dpo.evaluation import ScoredPair
    from lightning_dpo.policy import CausalLM

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

    from lightning_dpo.evaluated_model import as_trained, make_module
    from lightning_dpo.evaluation_report import report
    from lightning_dpo.loggers import join_lightning_logs
    from lightning_dpo.precision import default_precision

    join_lightning_logs()
    seed_everything(config.seed, workers=True, verbose=False)
    config = as_trained(config)
    model = build(config, "model")
    config.trainer.precision = config.trainer.precision or default_precision(config.trainer.accelerator)
    module, why_ties = make_module(config, model)
    folder = Path(config.run_folder)
    if config.score is not None:
        from lightning_dpo.scoring import score_file

        trainer = build(config, "trainer", devices=1, logger=False, callbacks=[])
        target, data = folder / "scores.jsonl", config.data
        written = score_file(config.score, target, module, trainer, model.tokenizer(), data.max_length, data.batch_size)
        log.info("Rewards of %d answers in %s.", written, target)
        return
    metrics, pairs = validated(config, module, model)
    report(metrics, pairs, folder)
    if why_ties and all(pair.margin == 0 for pair in pairs):
        log.warning("Every pair is a tie, and accuracy one half: %s.", why_ties)


def validated(
    config: DictConfig, module: "DPOModule", model: "CausalLM"
) -> "tuple[dict[str, float], Sequence[ScoredPair]]":
    """Metrics as in training, and what is known of every validation pair."""
    from lightning_dpo.callbacks.scored_pairs import ScoredPairs

    data = build(config, "data", tokenizer=model.tokenizer(), chosen_only=False)
    collected = ScoredPairs()
    callbacks = [collected] if config.samples is None else [collected, build(config, "samples")]
    trainer: Trainer = build(config, "trainer", devices=1, logger=False, callbacks=callbacks)
    (metrics,) = trainer.validate(module, data, verbose=False)
    return {name: float(value) for name, value in metrics.items()}, collected.pairs


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="evaluate")
def job(config: DictConfig) -> None:
    """The Hydra job."""
    told(evaluate, config)


def main() -> None:
    """The console script; `--score FILE` is the key `score`."""
    if "--score" in sys.argv[:-1]:
        place = sys.argv.index("--score")
        sys.argv[place : place + 2] = [f"score={sys.argv[place + 1]}"]
    run(job, "evaluate")


if __name__ == "__main__":
    main()
