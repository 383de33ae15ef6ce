"""The shared layout: one stream without padding that contains each prompt once, followed by its completions."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from lightning_dpo.batch import MicroBatch, PreferenceBatch, Segments, Stretch
from lightning_dpo.layouts.columns import joined, pair_columns

Prompt = tuple[int, ...]
Completion = tuple[tuple[int, ...], tuple[bool, ...] | None]
"""Tokens of a completion and whether each is scored; None: all are."""
Logps = Sequence[float] | None
"""Log-probs of the scored tokens under the reference; None: unknown."""


@dataclass(frozen=True)
class SharedLayout:
    """Makes a batch with one row: each prompt once, followed by each of its completions once.

    All pairs of a micro-batch with the same prompt share it, and a completion that is in several pairs is computed
    once. The policy must use the attention that `shared_prefix/attention.py` registers.

    Args:
        chosen_only: Include only chosen completions, for a loss that does not read others.
    """

    chosen_only: bool = False

    def __call__(self, micro_batch: MicroBatch) -> PreferenceBatch:
        """The batch of `micro_batch`: prompts, and the completions of each, in order of first occurrence."""
        chosen, rejected = [], []
        groups: dict[Prompt, dict[Completion, Logps]] = {}
        for pair in micro_batch.pairs:
            prompt = tuple(pair.prompt_ids)
            chosen.append((prompt, _completion(pair.chosen_ids, pair.chosen_scored)))
            if not self.chosen_only:
                rejected.append((prompt, _completion(pair.rejected_ids, pair.rejected_scored)))
            completions = groups.setdefault(prompt, {})
            completions[chosen[-1][1]] = pair.chosen_logps
            if not self.chosen_only:
                completions[rejected[-1][1]] = pair.rejected_logps
        every = [(prompt, completion) for prompt, completions in groups.items() for completion in completions]
        index = {completion: number for number, completion in enumerate(every)}
        return PreferenceBatch(
            **_stream(groups),
            reference_logps=joined(logps for completions in groups.values() for logps in completions.values()),
            chosen=torch.tensor([index[key] for key in chosen]),
            rejected=torch.tensor([index[key] for key in rejected], dtype=torch.int64),
            **pair_columns(micro_batch),
        )


def _completion(ids: Sequence[int], scored: Sequence[bool] | None) -> Completion:
    return tuple(ids), None if scored is None else tuple(scored)


class _Stream(TypedDict):
    """Arguments of `PreferenceBatch`."""

    input_ids: Tensor
    position_ids: Tensor
    segments: Segments
    row_lengths: Tensor
    score_index: Tensor
    target_ids: Tensor
    completion_index: Tensor
    completion_lengths: Tensor


def _stream(groups: dict[Prompt, dict[Completion, Logps]]) -> _Stream:
    input_ids: list[int] = []
    position_ids: list[int] = []
    score_index: list[int] = []
    target_ids: list[int] = []
    completion_index: list[int] = []
    lengths: list[int] = []
    stretches: list[Stretch] = []
    for prompt, completions in groups.items():
        input_ids += prompt
        position_ids += range(len(prompt))
        end_of_prompt = len(input_ids) - 1
        for number, (ids, scored) in enumerate(completions):
            begin = len(input_ids)
            # The hidden state of the preceding token predicts a scored one. The last prompt token predicts the first
            # token of every completion, wherever the completion is in the stream.
            before = [end_of_prompt, *range(begin, begin + len(ids) - 1)]
            kept = ids if scored is None else tuple(itertools.compress(ids, scored))
            score_index += before if scored is None else itertools.compress(before, scored)
            target_ids += kept
            completion_index += [len(lengths)] * len(kept)
            lengths.append(len(kept))
            input_ids += ids
            position_ids += range(len(prompt), len(prompt) + len(ids))
            stretches.append(Stretch(len(ids), len(prompt)) if number else Stretch(len(prompt) + len(ids), 0))
    return _Stream(
        input_ids=torch.tensor([input_ids]),
        position_ids=torch.tensor([position_ids]),
        segments=Segments(stretches),
        row_lengths=torch.tensor([len(input_ids)]),
        score_index=torch.tensor(score_index),
        target_ids=torch.tensor(target_ids),
        completion_index=torch.tensor(completion_index),
        completion_lengths=torch.tensor(lengths, dtype=torch.float32),
    )
