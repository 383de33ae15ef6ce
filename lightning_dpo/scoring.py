"""Rewards of answers in a file: the policy as a reward model, for best-of-n or to filter."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.chat import ChatTemplate
from lightning_dpo.data.encoding import ChatEncoder, TextEncoder
from lightning_dpo.data.messages import dialogue
from lightning_dpo.data.pairs import MicroBatch, TokenizedPair
from lightning_dpo.data.reading import read_rows
from lightning_dpo.data.reasons import InvalidRow, meaning
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.logps import completion_logps
from lightning_dpo.module import DPOModule


def score_file(
    path: str,
    target: Path,
    module: DPOModule,
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    batch_size: int,
) -> int:
    """Write every row of `path` again, with `rewards`: one for each of its answers.

    Args:
        path: Rows with `prompt` and `answers` (a list), `answer`, or `chosen` and `rejected`; text, or messages.
        target: Where to write, as JSON lines.
        module: Policy, reference and loss; its β scales the rewards.
        trainer: Its device and precision are used.
        tokenizer: The policy's.
        max_length: Tokens that a prompt and an answer may have together.
        batch_size: Answers that are scored side by side.

    Returns:
        How many answers were scored.

    Raises:
        UserError: A row has no answers, or cannot be encoded, or is too long.
    """
    rows = list(read_rows(path))
    answers = [(place, row, *pair) for place, row in rows for pair in _answers(place, row)]
    encoded = [_encoded(place, prompt, answer, tokenizer, max_length) for place, _, prompt, answer in answers]
    rewards = iter(_rewards(encoded, module, trainer, tokenizer.pad_token_id, batch_size))
    with target.open("w", encoding="utf-8") as file:
        for place, row in rows:
            file.write(
                json.dumps(row | {"rewards": [next(rewards) for _ in _answers(place, row)]}, ensure_ascii=False) + "\n"
            )
    return len(answers)


def _answers(place: str, row: dict[str, Any] | str) -> Iterator[tuple[Any, Any]]:
    """Prompt and answer, for every answer of a row."""
    if isinstance(row, str):
        raise UserError(f"{place}: {meaning(row)}")
    answers = row.get("answers") or [row[name] for name in ("answer", "chosen", "rejected") if name in row]
    if "prompt" not in row or not answers:
        raise UserError(f"{place}: a row to be scored has a prompt, and answers, answer, or chosen and rejected")
    return ((row["prompt"], answer) for answer in answers)


def _encoded(
    place: str, prompt: Any, answer: Any, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> TokenizedPair:
    """One prompt and answer as token ids."""
    try:
        if isinstance(prompt, str):
            row, encoder = {"prompt": prompt, "chosen": answer, "rejected": answer}, TextEncoder(tokenizer)
        else:
            turn = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else dialogue(answer)
            template = ChatTemplate(tokenizer)
            template.check()
            texts = {"prompt": dialogue(prompt), "chosen": turn, "rejected": turn}
            row, encoder = {name: json.dumps(text) for name, text in texts.items()}, ChatEncoder(template)
        (pair,) = encoder([row])
    except (InvalidRow, TypeError) as error:
        reason = str(error) if isinstance(error, InvalidRow) else "wrong_type"
        raise UserError(f"{place}: {meaning(reason)}") from error
    if pair.invalid:
        raise UserError(f"{place}: {meaning(pair.invalid)}")
    ids, mask = pair.chosen
    if len(pair.prompt) + len(ids) > max_length:
        raise UserError(f"{place}: {len(pair.prompt) + len(ids)} tokens, more than data.max_length={max_length}")
    return TokenizedPair(0, pair.prompt, ids, ids, mask, mask)


@torch.no_grad()
def _rewards(
    pairs: list[TokenizedPair], module: DPOModule, trainer: Trainer, pad_token_id: int, batch_size: int
) -> list[float]:
    """β(log π − log π_ref) of every answer."""
    layout, rewards = PaddedLayout(pad_token_id, chosen_only=True), []
    module.to(trainer.strategy.root_device).eval()
    starts = range(0, len(pairs), batch_size)
    for start in track(starts, description="Scoring", transient=True):
        chunk = pairs[start : start + batch_size]
        batch = layout(MicroBatch(chunk, [True] * len(chunk), len(chunk), 1)).to(module.device)
        with trainer.precision_plugin.val_step_context():
            ratios = completion_logps(module.policy, batch).sums - module.reference.logps(batch).sums
        rewards += (module.loss.beta * ratios).tolist()
    return rewards
