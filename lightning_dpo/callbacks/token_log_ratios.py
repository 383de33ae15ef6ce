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

_PARTIAL = "\N{REPLACEMENT CHARACTER}"  # of a character whose other bytes are in the next token


@torch.no_grad()
def log_ratios(
    module: "DPOModule", reference: Reference, prompt: Ids, answers: Collection[Answer], pad_token_id: int
) -> list[list[float]]:
    """log π − log π_ref of each scored token of answers to a prompt, in nats.

    Their sum over an answer is its log-ratio; the reward of DPO is β times this sum (Rafailov et al. 2023, section 5.1;
    as a reward per token: https://arxiv.org/abs/2404.12358). A collective call if weights are sharded.
    """
    pairs = [TokenizedPair(0, prompt, answer.ids, [], answer.scored) for answer in answers]
    layout = PaddedLayout(pad_token_id, chosen_only=True)
    batch = layout(MicroBatch(pairs, [True] * len(pairs), len(pairs), 1)).to(module.device)
    policy = completion_logps(module.policy, batch, tokens=True)
    ratios = policy.tokens - reference.logps(batch, tokens=True).tokens
    return [row[: int(count)].tolist() for row, count in zip(ratios, policy.lengths, strict=True)]


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Ids, values: Sequence[float]) -> list[tuple[str, float]]:
    """The text of each token with its value. Tokens that are parts of one character are one piece, with their sum."""
    found, shown, total = [], "", 0.0
    for end, value in enumerate(values, 1):
        total += value
        # Decoded together with what precedes it: a tokenizer may remove the space at the start of a text.
        text = str(tokenizer.decode(ids[:end]))
        if text.endswith(_PARTIAL) and end < len(values):
            continue
        found.append((text[len(shown) :], total))
        shown, total = text, 0.0
    return found


def write(
    path: Path, tokenizer: PreTrainedTokenizerBase, rows: Iterable[tuple[Ids, Mapping[str, Answer], list[list[float]]]]
) -> None:
    """Write a JSON line per prompt: `prompt`, and for each answer a list of `[text, log-ratio]`."""
    lines = []
    for prompt, answers, values in rows:
        line: dict[str, object] = {"prompt": tokenizer.decode(prompt)}
        for (side, answer), ratios in zip(answers.items(), values, strict=True):
            line[side] = [(text, round(value, 4)) for text, value in pieces(tokenizer, answer.scored_ids, ratios)]
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines))
