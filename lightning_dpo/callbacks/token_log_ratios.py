"""How much the training has changed the probability of each token of an answer."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.data.tokens.prompts import Answer
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.models.generation import Ids
from lightning_dpo.models.reference import Reference
from lightning_dpo.run_folder import write_atomically

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

Piece = tuple[str, float | None]
"""A part of a text, and its value."""

_PARTIAL = "\N{REPLACEMENT CHARACTER}"  # of a character whose other bytes are in the next token


@torch.no_grad()
def log_ratios(
    module: "DPOModule", reference: Reference, prompt: Ids, answers: Collection[Answer], pad_token_id: int
) -> list[list[float]]:
    """log π − log π_ref of each scored token of answers to a prompt, in nats.

    Their sum over an answer is its log-ratio; the reward of DPO is β times this sum (Rafailov et al. 2023, section 5.1;
    as a reward per token: https://arxiv.org/abs/2404.12358). A collective call if weights are sharded.
    """
    layout, found = PaddedLayout(pad_token_id, chosen_only=True), []
    for answer in answers:  # one by one, because two long ones may not fit in memory
        pair = TokenizedPair(0, prompt, answer.ids, [], answer.scored)
        batch = layout(MicroBatch([pair], [True], 1, 1)).to(module.device)
        policy = completion_logps(module.policy, batch, tokens=True)
        found.append((policy.tokens - reference.logps(batch, tokens=True).tokens)[0].tolist())
    return found


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Ids, values: Sequence[float | None]) -> list[Piece]:
    """The text of each token with its value. Tokens that are parts of one character are one piece, with their sum."""
    found: list[Piece] = []
    # Decoded after the previous piece: a tokenizer may remove the space at the start of a text.
    previous, start = 0, 0
    for end in range(1, len(ids) + 1):
        before, text = (str(tokenizer.decode(ids[previous:stop])) for stop in (start, end))
        if text.endswith(_PARTIAL) and end < len(ids):
            continue
        known = [value for value in values[start:end] if value is not None]
        found.append((text[len(before) :], round(sum(known), 4) if known else None))
        previous, start = start, end
    return found


def write(
    path: Path, tokenizer: PreTrainedTokenizerBase, rows: Iterable[tuple[Ids, Mapping[str, Answer], list[list[float]]]]
) -> None:
    """Write a JSON line per prompt: `prompt`, and for each answer a list of `[text, log-ratio]`.

    The log-ratio of a token that is not scored is null.
    """
    lines = []
    for prompt, answers, values in rows:
        line: dict[str, object] = {"prompt": tokenizer.decode(prompt)}
        for (side, answer), ratios in zip(answers.items(), values, strict=True):
            scored = iter(ratios)
            flags = answer.scored or [True] * len(answer.ids)
            line[side] = pieces(tokenizer, answer.ids, [next(scored) if flag else None for flag in flags])
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines))
