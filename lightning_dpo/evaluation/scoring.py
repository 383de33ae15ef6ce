"""Rewards of answers in a file: the policy as a reward model, for best-of-n or filtering."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from lightning import Trainer
from rich.progress import track

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.data.rows.messages import dialogue
from lightning_dpo.data.rows.pair_forms import explicit_pair
from lightning_dpo.data.rows.pairs import MESSAGE_COLUMNS, PreferencePair, Row
from lightning_dpo.data.rows.reading import to_pairs
from lightning_dpo.data.rows.reasons import IDENTICAL_ANSWERS, InvalidRow, found
from lightning_dpo.data.sources.files import read_rows
from lightning_dpo.data.steps.forward_size import longest_rows
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout, LayoutName, Layouts, PaddedLayout, SharedLayout
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.module import DPOModule
from lightning_dpo.run_folder import atomic_write
from lightning_dpo.shared_prefix.choice import TRIED, chosen_layout
from lightning_dpo.training.checked_loss import checked_rewards


class AnswersFile:
    """Answers to score: rows with `prompt` and `answers` (a list), `answer`, or `chosen` and `rejected`.

    Text and messages have the same forms as in a dataset of pairs, and are encoded in the same way.

    Args:
        path: A .jsonl, .jsonl.gz, .json or .parquet file.
        tokenization: Converts pairs to tokens.

    Raises:
        UserError: The file has no rows, or a row has no answers, is invalid, or is too long.
    """

    def __init__(self, path: str, tokenization: Tokenization) -> None:
        if not Path(path).is_file():
            raise UserError(f"score={path}: the file does not exist")
        self.rows = list(read_rows(path))
        pairs, _ = to_pairs(list(_answers(self.rows)), _as_pair, path)
        _check_valid(pairs)
        # The reward of a truncated answer would be that of another answer.
        self.answers = replace(tokenization, on_overlong="drop").tokenize(pairs)
        self.pad_token_id = tokenization.tokenizer.eos_token_id
        _check_valid(self.answers)
        for row in self.answers:
            if row["overlong"]:
                tokens = row["prompt_length"] + row["chosen_length"]
                raise UserError(f"{row['where']}: {tokens} tokens, more than data.max_length={tokenization.max_length}")

    def write_rewards(
        self, target: Path, module: DPOModule, trainer: Trainer, batch_size: int, layout: LayoutName
    ) -> int:
        """Write all rows with an additional field `rewards`: a list with a reward per answer.

        Args:
            target: Path of the JSON lines file.
            module: Policy, reference and loss.
            trainer: The Trainer, for its device and precision.
            batch_size: Answers in one forward pass.
            layout: `auto`, `shared` or `padded`. Consecutive answers to the same prompt share it.

        Returns:
            Number of scored answers.
        """
        # The Trainer runs no loop: only its device and precision are used.
        module.trainer = trainer
        module.to(trainer.strategy.root_device).eval()
        layouts = Layouts(PaddedLayout(self.pad_token_id, chosen_only=True), SharedLayout(chosen_only=True))
        chosen = chosen_layout(layout, layouts, self._longest, module.models, trainer)
        rewards = iter(_rewards(self.answers, module, trainer, chosen, batch_size))
        with atomic_write(target) as file:
            for row in self.rows:
                scored = cast(dict[str, Any], row[1]) | {"rewards": [next(rewards) for _ in _answers([row])]}
                file.write(f"{json.dumps(scored, ensure_ascii=False)}\n".encode())
        return len(self.answers)

    def _longest(self) -> MicroBatch:
        return _micro_batch(self.answers.select(longest_rows(self.answers, TRIED, chosen_only=True)))


def _check_valid(pairs: Dataset) -> None:
    # Both answers of these pairs are the one to score, so they are identical.
    for where, reason in zip(pairs["where"], pairs["invalid"], strict=True):
        if reason not in ("", IDENTICAL_ANSWERS):
            raise UserError(f"{where}: {reason}")


def _answers(rows: list[Row]) -> Iterator[Row]:
    """A row per answer."""
    for where, row in rows:
        if isinstance(row, str):
            raise UserError(f"{where}: {row}")
        answers = row.get("answers", [row[name] for name in ("answer", "chosen", "rejected") if name in row])
        if not isinstance(answers, list) or not answers:
            raise UserError(f"{where}: the row must have answers (a list), answer, or chosen and rejected")
        for answer in answers:
            yield where, row | {"answer": answer}


def _as_pair(row: dict[str, Any]) -> PreferencePair:
    """A pair with the answer on both sides, because tokenization expects pairs."""
    answer, prompt = row["answer"], row.get("prompt")
    if not isinstance(answer, str | list | dict) or answer in ([], {}):
        raise InvalidRow(f"an answer must be text or messages, not {found(answer)}")
    if isinstance(answer, str) and prompt is None:
        raise KeyError("prompt")
    other = answer
    if not isinstance(answer, str):
        # Dialogues are split at the first message that differs, so the other one has another last message.
        *start, last = dialogue(answer)
        other = [*start, {"role": "assistant", "content": f"{last.get('content')}."}]
    pair = explicit_pair(prompt, answer, other)
    carried = {name: row[name] for name in MESSAGE_COLUMNS if row.get(name)}
    return cast(PreferencePair, {**pair, "rejected": pair["chosen"], **carried})


@torch.no_grad()
def _rewards(answers: Dataset, module: DPOModule, trainer: Trainer, layout: Layout, batch_size: int) -> Iterator[float]:
    """The loss's reward of every answer."""
    reference = module.reference
    for start in track(range(0, len(answers), batch_size), description="Scoring", transient=True):
        rows = answers.select(range(start, min(start + batch_size, len(answers))))
        batch = layout(_micro_batch(rows)).to(module.device)
        with trainer.precision_plugin.val_step_context():
            policy = completion_logps(module.policy, batch, module.loss.needs_tokens)
            of_reference = reference.logps(batch, module.loss.needs_tokens) if reference else None
            rewards = checked_rewards(module.loss, policy, of_reference)
        # `chosen` maps answers to completions: an answer that is given twice is one completion.
        yield from rewards[batch.chosen].tolist()


def _micro_batch(rows: Dataset) -> MicroBatch:
    pairs = [TokenizedPair(0, row["prompt_ids"], row["chosen_ids"], [], row["chosen_scored"]) for row in rows]
    return MicroBatch(pairs, [True] * len(pairs), len(pairs), 1)
