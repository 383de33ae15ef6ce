"""The shared layout: one stream without pads, each prompt in it once, its completions behind it."""

from dataclasses import dataclass
from typing import Any

import torch

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.data.pairs import MicroBatch, TokenizedPair, completion_key
from lightning_dpo.layouts.columns import pair_columns
from lightning_dpo.segments import Segments, Stretch

Prompt = tuple[int, ...]
Completion = tuple[tuple[int, ...], tuple[bool, ...] | None]
"""Tokens of a completion, and which of them are scored; None: all."""


@dataclass(frozen=True)
class SharedLayout:
    """Lays a micro-batch of pairs out as one row: each prompt once, then each of its completions once.

    Pairs of one prompt share it, wherever in the micro-batch they stand, and a completion that is in several pairs is
    computed once. The policy's attention must be the one that `attention.py` registers.

    Args:
        chosen_only: Lay out the chosen completions alone, for a loss that reads no others.
    """

    chosen_only: bool = False

    def __call__(self, micro_batch: MicroBatch) -> PreferenceBatch:
        """The batch of `micro_batch`: prompts in the order of their first pairs, and so their completions."""
        sides = ("chosen",) if self.chosen_only else ("chosen", "rejected")
        groups: dict[Prompt, dict[Completion, None]] = {}
        for pair in micro_batch.pairs:
            for side in sides:
                groups.setdefault(tuple(pair.prompt_ids), {})[_completion(pair, side)] = None
        pieces = [(prompt, completion) for prompt, completions in groups.items() for completion in completions]
        number = {piece: place for place, piece in enumerate(pieces)}
        pairs = {
            side: torch.tensor([number[tuple(pair.prompt_ids), _completion(pair, side)] for pair in micro_batch.pairs])
            for side in sides
        }
        empty = torch.zeros(0, dtype=torch.int64)
        return PreferenceBatch(**_stream(groups), **({"rejected": empty} | pairs), **pair_columns(micro_batch))


def _completion(pair: TokenizedPair, side: str) -> Completion:
    scored = getattr(pair, f"{side}_scored")
    return tuple(getattr(pair, f"{side}_ids")), None if scored is None else tuple(scored)


def _stream(groups: dict[Prompt, dict[Completion, None]]) -> dict[str, Any]:
    input_ids: list[int] = []
    position_ids: list[int] = []
    score_index: list[int] = []
    target_ids: list[int] = []
    completion_index: list[int] = []
    prompt_index: list[int] = []
    stretches: list[Stretch] = []
    for number, (prompt, completions) in enumerate(groups.items()):
        input_ids += prompt
        position_ids += range(len(prompt))
        end_of_prompt = len(input_ids) - 1
        for place, (ids, scored) in enumerate(completions):
            begin = len(input_ids)
            # The token before a scored one predicts it; the last prompt token predicts the first of each completion.
            before = [end_of_prompt, *range(begin, begin + len(ids) - 1)]
            chosen = [offset for offset in range(len(ids)) if scored is None or scored[offset]]
            score_index += [before[offset] for offset in chosen]
            target_ids += [ids[offset] for offset in chosen]
            completion_index += [len(prompt_index)] * len(chosen)
            prompt_index.append(number)
            input_ids += ids
            position_ids += range(len(prompt), len(prompt) + len(ids))
            stretches.append(Stretch(len(ids), len(prompt)) if place else Stretch(len(prompt) + len(ids), 0))
    keys = [completion_key(list(prompt), *map(_listed, one)) for prompt, ones in groups.items() for one in ones]
    return {
        "input_ids": torch.tensor([input_ids]),
        "position_ids": torch.tensor([position_ids]),
        "segments": Segments(stretches),
        "tokens": torch.tensor(len(input_ids)),
        "score_index": torch.tensor(score_index),
        "target_ids": torch.tensor(target_ids),
        "completion_index": torch.tensor(completion_index),
        "prompt_index": torch.tensor(prompt_index),
        "completion_key": torch.tensor(keys),
    }


def _listed(values: tuple[Any, ...] | None) -> list[Any] | None:
    return None if values is None else list(values)
