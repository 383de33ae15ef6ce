"""The padded layout: one row per completion with its prompt, padding on the right. All architectures support it."""

from dataclasses import dataclass

import torch

from lightning_dpo.batch import MicroBatch, PreferenceBatch
from lightning_dpo.layouts.columns import joined, pair_columns


@dataclass(frozen=True)
class PaddedLayout:
    """Makes a batch with one right-padded row per completion.

    Args:
        pad_token_id: Any valid token id, such as that of EOS; the pad token can be beyond a model's embeddings.
            Masks do not depend on it, because lengths are known.
        chosen_only: Include only chosen completions, for a loss that does not read others.
    """

    pad_token_id: int
    chosen_only: bool = False

    def __call__(self, micro_batch: MicroBatch) -> PreferenceBatch:
        """The batch of `micro_batch`: rows of the chosen completions, then rows of the rejected ones."""
        pairs = micro_batch.pairs
        completions = [(pair.prompt_ids, pair.chosen_ids, pair.chosen_scored) for pair in pairs]
        logps = [pair.chosen_logps for pair in pairs]
        if not self.chosen_only:
            completions += [(pair.prompt_ids, pair.rejected_ids, pair.rejected_scored) for pair in pairs]
            logps += [pair.rejected_logps for pair in pairs]
        width = max(len(prompt) + len(ids) for prompt, ids, _ in completions)
        input_ids = torch.full((len(completions), width), self.pad_token_id)
        scored = torch.zeros_like(input_ids, dtype=torch.bool)
        for row, (prompt, ids, mask) in enumerate(completions):
            answer = slice(len(prompt), len(prompt) + len(ids))
            input_ids[row, : answer.stop] = torch.tensor([*prompt, *ids])
            scored[row, answer] = True if mask is None else torch.tensor(mask)
        # Flat positions of scored tokens, in the order of rows.
        targets = scored.flatten().nonzero()[:, 0]
        index = torch.arange(len(pairs))
        return PreferenceBatch(
            input_ids=input_ids,
            position_ids=None,
            segments=None,
            row_lengths=torch.tensor([len(prompt) + len(ids) for prompt, ids, _ in completions]),
            # The hidden state of the preceding token predicts a scored one: the last prompt token predicts the first.
            score_index=targets - 1,
            target_ids=input_ids.flatten()[targets],
            completion_index=targets // width,
            completion_lengths=scored.sum(1).to(torch.float32),
            reference_logps=joined(logps),
            chosen=index,
            rejected=index[:0] if self.chosen_only else index + len(pairs),
            **pair_columns(micro_batch),
        )
