"""The padded layout: one row per completion, prompt before it, pads on the right. Every architecture can take it."""

from dataclasses import dataclass

import torch

from lightning_dpo.batch import MicroBatch, PreferenceBatch
from lightning_dpo.layouts.columns import pair_columns


@dataclass(frozen=True)
class PaddedLayout:
    """Lays a micro-batch of pairs out as one right-padded row per completion.

    Args:
        pad_token_id: Any id that the embedding has. Nothing is masked by it: what is scored is known from lengths.
        chosen_only: Lay out only the chosen completions, for a loss that reads no others.
    """

    pad_token_id: int
    chosen_only: bool = False

    def __call__(self, micro_batch: MicroBatch) -> PreferenceBatch:
        """The batch of `micro_batch`: chosen completions in the first rows, rejected ones below them."""
        pairs = micro_batch.pairs
        completions = [(pair.prompt_ids, pair.chosen_ids, pair.chosen_scored) for pair in pairs]
        if not self.chosen_only:
            completions += [(pair.prompt_ids, pair.rejected_ids, pair.rejected_scored) for pair in pairs]
        width = max(len(prompt) + len(ids) for prompt, ids, _ in completions)
        input_ids = torch.full((len(completions), width), self.pad_token_id)
        scored = torch.zeros_like(input_ids, dtype=torch.bool)
        for row, (prompt, ids, mask) in enumerate(completions):
            answer = slice(len(prompt), len(prompt) + len(ids))
            input_ids[row, : answer.stop] = torch.tensor([*prompt, *ids])
            scored[row, answer] = True if mask is None else torch.tensor(mask)
        targets = scored.flatten().nonzero()[:, 0]
        index = torch.arange(len(pairs))
        return PreferenceBatch(
            input_ids=input_ids,
            position_ids=None,
            segments=None,
            tokens=torch.tensor(sum(len(prompt) + len(ids) for prompt, ids, _ in completions)),
            # The token before a scored one predicts it; the last prompt token predicts the first.
            score_index=targets - 1,
            target_ids=input_ids.flatten()[targets],
            completion_index=targets // width,
            completion_lengths=scored.sum(1).to(torch.float32),
            chosen=index,
            rejected=index[:0] if self.chosen_only else index + len(pairs),
            **pair_columns(micro_batch),
        )
