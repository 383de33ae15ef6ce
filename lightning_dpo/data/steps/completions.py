"""The distinct completions of some pairs, in batches of similar lengths, to compute the log-probs of each once."""

import numpy as np
from datasets import Dataset

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.data.rows.arrow import columns_of
from lightning_dpo.data.tokens.lengths import PairLengths

_SIDES = ("chosen", "rejected")


class Completions:
    """Completions of pairs, each once.

    Args:
        tokens: Tokenized pairs, with the keys of their completions.
        chosen_only: Whether rejected completions are excluded.

    Attributes:
        keys: The key of each completion. Shape: (completions,), strings of 16 bytes.
    """

    def __init__(self, tokens: Dataset, chosen_only: bool) -> None:
        self.tokens = tokens
        sides = _SIDES[: 1 if chosen_only else 2]
        every = np.concatenate([np.array(tokens[f"{side}_key"][:], dtype="S16") for side in sides])
        # The first pair of each: a completion may be in several.
        self.keys, first = np.unique(every, return_index=True)
        self._side, self._row = np.divmod(first, max(1, len(tokens)))

    def batches(self, max_tokens: int, shared: bool) -> list[np.ndarray]:
        """Indices of completions, in batches of similar lengths; completions of one prompt are adjacent.

        The batches depend only on the completions, and not on which of them are needed: bitwise, a log-prob may depend
        on its batch.

        Args:
            max_tokens: Maximum number of tokens in a batch, padding included, unless it has a single completion.
            shared: Whether a prompt is computed once for its completions in a batch.
        """
        if not len(self.keys):
            return []
        lengths = PairLengths.of(self.tokens)
        prompts, of_prompt = lengths.prompt_id[self._row], lengths.prompt[self._row]
        answers = np.stack(lengths.answers(chosen_only=False))[self._side, self._row]
        longest = np.zeros(prompts.max() + 1, np.int64)
        np.maximum.at(longest, prompts, of_prompt + answers)
        # The first key of each prompt orders prompts of one length: their ids depend on the other pairs.
        first = np.full(prompts.max() + 1, len(self.keys))
        np.minimum.at(first, prompts, np.arange(len(self.keys)))
        order = np.lexsort((self.keys, first[prompts], -longest[prompts]))
        batches: list[list[int]] = [[]]
        used, width, last = 0, 0, -1
        for index in order.tolist():
            prompt, answer = int(of_prompt[index]), int(answers[index])
            width = max(width, prompt + answer)
            if shared:
                after = used + answer + (prompt if prompts[index] != last else 0)
            else:
                after = width * (len(batches[-1]) + 1)
            if batches[-1] and after > max_tokens:
                batches.append([])
                after = width = prompt + answer
            batches[-1].append(index)
            used, last = after, prompts[index]
        return [np.array(batch) for batch in batches]

    def micro_batch(self, indices: np.ndarray) -> MicroBatch:
        """The completions at `indices` as chosen ones of pairs without rejected ones."""
        sides, rows = self._side[indices].tolist(), self._row[indices].tolist()
        names = ("prompt_ids", *(f"{side}_{what}" for side in _SIDES for what in ("ids", "scored")))
        columns = columns_of(self.tokens.select_columns(list(names)).with_format("arrow"), rows)
        pairs = [
            TokenizedPair(
                row,
                columns["prompt_ids"][index],
                columns[f"{_SIDES[side]}_ids"][index],
                [],
                columns[f"{_SIDES[side]}_scored"][index],
            )
            for index, (side, row) in enumerate(zip(sides, rows, strict=True))
        ]
        return MicroBatch(pairs, [True] * len(pairs), len(pairs), 1)
