"""`python -m lightning_dpo.inspect_data`: a look at preference data before training on it. Loads no weights."""

import json
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from lightning_dpo.cli.checked import CheckedConfig
from lightning_dpo.cli.command_line import run, run_job
from lightning_dpo.cli.config import CONFIG_DIR
from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.settings_files import task_overrides

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from lightning_dpo import PreferenceDataModule

log = logging.getLogger(__name__)

KEYS = {"model", "data", "suggested", "callbacks", "shown", "seed", "run_name", "run_folder", "ckpt_path"}


def inspect_data(config: DictConfig) -> None:
    """Read and tokenize the data as `train` would; print, draw and write what it is like.

    Args:
        config: `conf/inspect_data.yaml`, composed.
    """
    checked = CheckedConfig(config, KEYS, task_overrides())
    if not isinstance(config.shown, int) or config.shown < 0:
        raise UserError(f"shown={config.shown}: a number of pairs, 0 or more")

    from lightning_dpo.reports.run_plots import draw_lengths

    tokenizer = checked.build("model").tokenizer()
    data = checked.build("data", tokenizer=tokenizer, chosen_only=False)
    # Nothing stops here: what is invalid is what one wants to see.
    data.preparation.on_invalid, data.preparation.max_invalid_fraction = "drop", 1.0
    data.setup()
    folder = RunFolder(config.run_folder)
    facts, lengths = gathered(data, folder)
    print_pairs(data.train_pairs, tokenizer, config.shown, config.seed)
    print_facts(facts)
    draw_lengths(lengths, data.max_length, folder.lengths)
    folder.inspection.write_text(json.dumps(facts, indent=2) + "\n")
    written = (path.name for path in (folder.inspection, folder.lengths, folder.invalid_rows) if path.exists())
    log.info("In %s: %s.", folder.path, ", ".join(written))


def gathered(data: "PreferenceDataModule", folder: RunFolder) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """What is known of the data: facts by name, and lengths in tokens of prompts, answers and both together.

    Of each training pair once, however often a mixture takes it, and of those too long as well, before anything is cut.
    """
    from datasets import concatenate_datasets

    from lightning_dpo.data.rows.statistics import duplicates, longer_wins

    listed = folder.invalid_rows
    invalid = [json.loads(line) for line in listed.open(encoding="utf-8")] if listed.exists() else []
    names = ("where", "prompt", "chosen", "rejected", "prompt_length", "chosen_length", "rejected_length")
    every = concatenate_datasets([data.train_pairs, data.pairs.overlong]).select_columns(list(names))[:]
    once = {row[:4]: row for row in zip(*(every[name] for name in names), strict=True)}.values()
    repeated, contradictory = duplicates(row[1:4] for row in once)
    prompts, chosen, rejected = (list(column) for column in list(zip(*once, strict=True))[4:])
    left_out = data.counts.get("training_pairs_whose_prompt_is_in_validation_left_out", 0)
    seen = set(data.val_pairs["prompt"])
    equal = sum(map(int.__eq__, chosen, rejected)) / len(chosen)
    answers, prompts_of = sum(chosen) + sum(rejected), Counter(row[1] for row in once)
    facts = {
        "counts": data.counts,
        "invalid rows by reason": dict(Counter(row["reason"] for row in invalid).most_common()),
        "invalid rows": [f"{row['where']}: {row['reason']}" for row in invalid],
        "training pairs that stand there before": repeated,
        "training pairs that stand there with their answers exchanged": contradictory,
        "training pairs whose prompt stands in validation": left_out + sum(row[1] in seen for row in once),
        # What data.layout=shared saves, besides pads; and what data.group_by_prompt could.
        "tokens of training pairs": {
            "with their prompt once": sum(prompts) + answers,
            "with it before each answer": 2 * sum(prompts) + answers,
        },
        "training pairs whose prompt other pairs have too": sum(n for n in prompts_of.values() if n > 1),
        "share of training pairs whose longer answer wins": round(longer_wins(chosen, rejected), 4),
        "share of training pairs whose answers are equally long": round(equal, 4),
    }
    both = [prompt + max(sides) for prompt, *sides in zip(prompts, chosen, rejected, strict=True)]
    titles = ("prompt", "chosen answer", "rejected answer", "prompt and longer answer")
    return facts, dict(zip(titles, (prompts, chosen, rejected, both), strict=True))


def print_facts(facts: dict[str, Any], most: int = 20) -> None:
    """Print the facts as a table, lists cut after `most`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", title="The data", title_justify="left", show_header=False)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = "\n".join(f"{count} {key.replace('_', ' ')}" for key, count in value.items()) or "none"
        elif isinstance(value, list):
            more = [f"and {len(value) - most} more"] * (len(value) > most)
            value = "\n".join([*value[:most], *more]) or "none"
        elif isinstance(value, float):
            alone = f": how far a judge of length alone gets, or {1 - value:.1%} preferring the shorter answer"
            value = f"{value:.1%}{alone if 'longer' in name else ''}"
        table.add_row(name, Text(str(value)), end_section=True)
    Console().print(table)


def print_pairs(pairs: "Dataset", tokenizer: "PreTrainedTokenizerBase", count: int, seed: int) -> None:
    """Print some pairs token by token, drawn by `seed`."""
    from rich.console import Console

    from lightning_dpo.reports.token_table import token_table

    for row in sorted(random.Random(seed).sample(range(len(pairs)), min(count, len(pairs)))):
        Console().print(token_table(pairs[row], tokenizer))


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="inspect_data")
def job(config: DictConfig) -> None:
    """The Hydra job."""
    run_job(inspect_data, config)


def main() -> None:
    """The console script."""
    run(job, "inspect_data")


if __name__ == "__main__":
    main()
