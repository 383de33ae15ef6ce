"""`python -m lightning_dpo.inspect_data`: statistics and samples of preference data before training."""

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
from lightning_dpo.printable import printable
from lightning_dpo.run_folder import RunFolder, write_atomically
from lightning_dpo.runs.settings_files import task_overrides

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from lightning_dpo import PreferenceDataModule

log = logging.getLogger(__name__)

KEYS = {"model", "data", "suggested", "callbacks", "shown", "seed", "run_name", "run_folder", "ckpt_path"}


def inspect_data(config: DictConfig) -> None:
    """Read and tokenize the data as `train` does; print, plot and write its statistics. No model is loaded.

    Args:
        config: The composed `conf/inspect_data.yaml`.
    """
    checked = CheckedConfig(config, KEYS, task_overrides())
    if not isinstance(config.shown, int) or config.shown < 0:
        raise UserError(f"shown={config.shown} must be a number of pairs, 0 or more")

    from lightning_dpo.reports.run_plots import draw_lengths

    tokenizer = checked.build("model").tokenizer()
    data = checked.build("data", tokenizer=tokenizer, chosen_only=False)
    # Invalid rows must not stop this command, because it reports them.
    data.preparation.on_invalid, data.preparation.max_invalid_fraction = "drop", 1.0
    data.setup()
    folder = RunFolder(config.run_folder)
    found, lengths = statistics(data, folder)
    print_pairs(data.train_pairs, tokenizer, config.shown, config.seed)
    print_statistics(found)
    draw_lengths(lengths, data.max_length, folder.lengths)
    write_atomically(folder.inspection, json.dumps(found, indent=2) + "\n")
    written = (path.name for path in (folder.inspection, folder.lengths, folder.invalid_rows) if path.exists())
    log.info("Wrote %s to %s.", ", ".join(written), folder.path)


_LABELS = {
    "counts": "pairs",
    "invalid_rows_by_reason": "invalid rows by reason",
    "invalid_rows": "invalid rows",
    "ignored": "columns and fields that are not used, by number of rows",
    "duplicates": "duplicate pairs",
    "exchanged_answers": "pairs that also occur with chosen and rejected swapped",
    "prompt_in_validation": "training pairs whose prompt is also in the validation set",
    "tokens": "tokens",
    "shared_prompt": "pairs whose prompt occurs in other pairs",
    "longer_answer_preferred": "fraction of pairs whose longer answer is preferred",
    "equal_length": "answers of equal length",
}


def statistics(data: "PreferenceDataModule", folder: RunFolder) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Statistics by name, and lengths in tokens of prompts, answers and both together.

    Each training pair counts once, even if a mixture repeats it. Overlong pairs are included. Lengths are those before
    truncation.
    """
    from datasets import concatenate_datasets

    from lightning_dpo.data.rows.reasons import without_excerpts
    from lightning_dpo.data.rows.statistics import duplicates, longer_wins

    listed = folder.invalid_rows
    invalid = [json.loads(line) for line in listed.open(encoding="utf-8")] if listed.exists() else []
    names = ("where", "prompt", "chosen", "rejected", "prompt_length", "chosen_length", "rejected_length")
    every = concatenate_datasets([data.train_pairs, data.pairs.overlong]).select_columns(list(names))[:]
    once = {row[:4]: row for row in zip(*(every[name] for name in names), strict=True)}.values()
    repeated, contradictory = duplicates(row[1:4] for row in once)
    prompts, chosen, rejected = (list(column) for column in list(zip(*once, strict=True))[4:])
    removed = data.counts.get("train_prompt_in_validation", 0)
    seen = set(data.val_pairs["prompt"])
    equal = sum(map(int.__eq__, chosen, rejected)) / len(chosen)
    answers, prompts_of = sum(chosen) + sum(rejected), Counter(row[1] for row in once)
    found = {
        "counts": data.counts,
        "invalid_rows_by_reason": dict(Counter(without_excerpts(row["reason"]) for row in invalid).most_common()),
        "invalid_rows": [f"{row['where']}: {row['reason']}" for row in invalid],
        "ignored": data.pairs.ignored,
        "duplicates": repeated,
        "exchanged_answers": contradictory,
        "prompt_in_validation": removed + sum(row[1] in seen for row in once),
        # The ratio is what data.layout=shared saves, besides padding.
        "tokens": {"prompt_once": sum(prompts) + answers, "prompt_per_answer": 2 * sum(prompts) + answers},
        # What data.group_by_prompt could save.
        "shared_prompt": sum(n for n in prompts_of.values() if n > 1),
        "longer_answer_preferred": round(longer_wins(chosen, rejected), 4),
        "equal_length": round(equal, 4),
    }
    both = [prompt + max(sides) for prompt, *sides in zip(prompts, chosen, rejected, strict=True)]
    titles = ("prompt", "chosen answer", "rejected answer", "prompt and longer answer")
    return found, dict(zip(titles, (prompts, chosen, rejected, both), strict=True))


def print_statistics(found: dict[str, Any], most: int = 20) -> None:
    """Print the statistics as a table, with at most `most` items per list."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", title="Training data", title_justify="left", show_header=False)
    for name, value in found.items():
        if isinstance(value, dict):
            value = "\n".join(f"{key}: {count}" for key, count in value.items()) or "none"
        elif isinstance(value, list):
            more = [f"and {len(value) - most} more"] * (len(value) > most)
            value = "\n".join([*value[:most], *more]) or "none"
        elif isinstance(value, float):
            value = f"{value:.1%}"
        table.add_row(_LABELS[name], Text(printable(str(value))), end_section=True)
    Console().print(table)


def print_pairs(pairs: "Dataset", tokenizer: "PreTrainedTokenizerBase", count: int, seed: int) -> None:
    """Print a random sample of pairs, token by token."""
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
